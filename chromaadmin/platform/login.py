"""How allauth behaves here: accounts are made by administrators, never by visitors."""

from allauth.account.adapter import DefaultAccountAdapter
from django.http import HttpRequest


class AccountAdapter(DefaultAccountAdapter):
    """No sign-up, and no changes of the user name by its owner."""

    def is_open_for_signup(self, request: HttpRequest) -> bool:
        return False
