"""Text profiles: what is written about a person, and shown in their prompts."""

from typing import Any

from ownlm.config import PromptConfig
from ownlm.errors import NotFoundError
from ownlm.store.rows import ProfileInfo


def shown(config: PromptConfig, user: str, profile: ProfileInfo | None) -> dict[str, Any]:
    """What a prompt of a person shows, as arguments of `history_examples` and `query_prompt`.

    Raises:
        NotFoundError: it shows a profile, and the person has none.
    """
    if config.profile and profile is None:
        raise NotFoundError(f"User {user!r} has no profile", hint="`ownlm profile --task T` writes it")
    return config.model_dump() | {"profile": profile.text if config.profile and profile else ""}
