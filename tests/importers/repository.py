"""Real git repositories, made for a test."""

import subprocess
from pathlib import Path

DAY = 86_400
START = 1_700_000_000  # 2023-11-14T22:13:20+00:00
ADA, BELA = "Ada <ada@example.org>", "Bela <bela@example.org>"


class Repository:
    """A repository in a new folder; its commits are a day apart."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder = folder
        self.clock = START
        subprocess.run(["git", "init", "--quiet", "--initial-branch=main", *options, str(folder)], check=True)

    def git(self, *args: str, given: bytes = b"") -> str:
        """What git says."""
        command = ["git", "-C", str(self.folder), "-c", "user.name=Committer", "-c", "user.email=c@example.org", *args]
        done = subprocess.run(command, input=given, capture_output=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.decode("utf8", "replace").strip()

    def write(self, **files: str | bytes) -> None:
        """Files by their stem: a text file with the lines, or a file with the bytes."""
        for name, content in files.items():
            self.put(f"{name}.txt", content)

    def put(self, path: str | bytes, content: str | bytes) -> None:
        file = self.folder / (path if isinstance(path, str) else path.decode("utf8", "surrogateescape"))
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content if isinstance(content, bytes) else content.encode())

    def commit(self, subject: str | bytes, *options: str, author: str = ADA, at: int | None = None) -> str:
        """Commits everything there is; its hash."""
        message = subject if isinstance(subject, bytes) else subject.encode()
        date = f"{self.clock if at is None else at} +0200"
        self.clock += DAY
        self.git("add", "--all")
        settings = [option for option in options if "=" in option and not option.startswith("--")]
        others = [option for option in options if option not in settings]
        command = ["commit", "--quiet", "--allow-empty", "--allow-empty-message", "--cleanup=verbatim", "--no-verify"]
        self.git(
            *(part for setting in settings for part in ("-c", setting)),
            *(*command, f"--author={author}", f"--date={date}", *others, "--file=-"),
            given=message,
        )
        return self.git("rev-parse", "HEAD")

    def raw(self, commit: bytes) -> str:
        """A commit object as it stands, on top of everything; its hash."""
        hash = self.git("hash-object", "-t", "commit", "-w", "--stdin", "--literally", given=commit)
        self.git("update-ref", "HEAD", hash)
        return hash
