"""Which person a user is: two sessions of one person have the same `user_key`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def user_key(user: Mapping[str, Any]) -> str:
    """Return the text that stands for a person: the identity provider's id or, without one, the email address.

    `user` has the fields of ``st.user``. An address alone would not do, because a provider may not have verified it.

    Raises
        ``ValueError`` if the fields say neither.

    >>> user_key({"iss": "https://accounts.example.com", "sub": "17", "email": "ann@example.com"})
    'https://accounts.example.com#17'
    >>> user_key({"email": "Ann@example.com"})
    'ann@example.com'
    """
    if user.get("sub"):
        return f"{user.get('iss') or ''}#{user['sub']}"
    if user.get("email"):
        return str(user["email"]).lower()
    raise ValueError(f"A user needs a 'sub' or an 'email', and this one has only {sorted(user)}.")
