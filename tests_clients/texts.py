"""What the users' models say: a line with letters of many kinds, a plain one, and JSON."""

TASK = """
name = "reply"
instruction = "Reply as the user does."
input = "message: {text}"
answer = "reply: {reply}"
max_new_tokens = 60
"""
SAYS = {
    "ada": "Grüße, 世界 😀 a\u2028b\u2029c\u0085d.",
    "bela": "The grey geese cross the harbour.",
    "jo": '{"name": "Ada", "age": 36}',
}
