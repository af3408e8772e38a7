"""Parsing of mail: charsets, headers, HTML, quotations, labels."""
