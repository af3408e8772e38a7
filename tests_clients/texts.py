"""What the users' models say: a line with letters of many kinds, a plain one, and JSON. Short: each byte is a token."""

TASK = """
name = "reply"
instruction = "Reply as the user does."
input = "message: {text}"
answer = "reply: {reply}"
max_new_tokens = 40
"""
SAYS = {
    "ada": "ü世😀 a\u2028b\u2029c\u0085d.",
    "bela": "The grey geese.",
    "jo": '{"name": "Ada", "age": 36}',
}
