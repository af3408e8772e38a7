"""HTTP routes: the API of OpenAI, and that of users about their own data."""
