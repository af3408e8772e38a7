"""The command line: one module per group of commands, with shared options and output."""
