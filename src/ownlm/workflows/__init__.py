"""The steps behind each operation of `Home`, as functions over its store."""
