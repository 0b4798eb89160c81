"""Which person a user is."""

import pytest

from fastserverstate.users import user_key


def test_the_providers_id_wins_over_the_email_address() -> None:
    ann = {"iss": "https://a.example", "sub": "1", "email": "ann@example.com"}
    assert user_key(ann) == user_key({**ann, "email": "ann.new@example.com"})
    assert user_key(ann) != user_key({**ann, "iss": "https://b.example"})
    assert user_key(ann) != user_key({**ann, "sub": "2"})


def test_without_an_id_the_email_address_counts_in_any_case() -> None:
    assert user_key({"email": "Ann@Example.com"}) == user_key({"email": "ann@example.com", "name": "Ann"})


def test_a_user_without_both_is_refused() -> None:
    with pytest.raises(ValueError, match=r"needs a 'sub' or an 'email'.*\['name'\]"):
        user_key({"name": "Ann"})
