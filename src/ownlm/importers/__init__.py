"""Importers: history files from git repositories, mailboxes and LaMP's files."""
