"""Accounts: roles as data, first administrator, and the one question `may(user, right, instance)`."""
