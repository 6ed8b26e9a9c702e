"""Accounts of datasets, whose numbers add up."""

from __future__ import annotations

from training.data.datasets.account import Account


def test_what_was_found_is_read_or_left_out() -> None:
    account = Account()
    account.take("images", 5)
    account.lose("images", "without a file", 2)
    account.pass_over("images", "listed again")
    account.pass_over("annotations", "covered", 0)
    assert account.found("images") == 8 and account.found("annotations") == 0
    assert account.has_losses
    assert account.line() == "images 5 of 8 (2 without a file, 1 listed again)"
    assert account.as_dict()["images"] == {
        "found": 8, "read": 5, "left_out": {"without a file": 2, "listed again": 1},
    }  # fmt: skip


def test_accounts_are_added_by_unit_and_reason() -> None:
    total = Account()
    for _ in range(3):
        one = Account()
        one.take("pages")
        one.pass_over("files", "hidden")
        one.changed["masks with soft edges"] += 1
        total.add(one)
    assert total.rows() == [
        "pages 3 of 3",
        "files 0 of 3 (3 hidden)",
        "changed in reading: 3 masks with soft edges",
    ]
    assert total.has_losses, "greys were lost"


def test_what_rules_leave_out_is_no_loss() -> None:
    account = Account()
    account.pass_over("files", "hidden")
    assert not account.has_losses
    assert Account().line() == "nothing"
