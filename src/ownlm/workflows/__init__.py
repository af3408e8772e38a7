"""The steps behind each verb of a home, as functions over its store."""
