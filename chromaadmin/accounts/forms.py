"""Forms of accounts: the first administrator, a new account."""

from typing import Any

from django import forms
from django.contrib.auth import get_user_model
from django.contrib.auth.password_validation import password_validators_help_texts, validate_password


class NewAccountForm(forms.Form):
    """A user name and a password, typed twice. Whether they will do is decided by ``accounts.services``."""

    username = forms.CharField(
        label="User name",
        max_length=150,
        widget=forms.TextInput(attrs={"autocomplete": "username", "autocapitalize": "none", "spellcheck": "false"}),
    )
    password = forms.CharField(
        strip=False, max_length=1000, widget=forms.PasswordInput(attrs={"autocomplete": "new-password"})
    )
    again = forms.CharField(
        label="The same password again",
        strip=False,
        max_length=1000,
        widget=forms.PasswordInput(attrs={"autocomplete": "new-password"}),
    )

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["password"].help_text = " ".join(str(text) for text in password_validators_help_texts())

    def clean(self) -> dict[str, Any]:
        given = super().clean() or {}
        if given.get("password") and given.get("again") and given["password"] != given["again"]:
            self.add_error("again", "The two passwords differ.")
        return given


class NewUserForm(forms.ModelForm):
    """The same for an account that an administrator makes; it has no role until one is given."""

    password = forms.CharField(
        strip=False,
        max_length=1000,
        widget=forms.PasswordInput(attrs={"autocomplete": "new-password"}),
        help_text="Tell it to the person on another way; they change it after signing in.",
    )

    class Meta:
        model = get_user_model()
        fields = ("username", "email")

    def clean_password(self) -> str:
        password: str = self.cleaned_data["password"]
        validate_password(password, get_user_model()(username=self.cleaned_data.get("username", "")))
        return password


class UserForm(forms.ModelForm):
    """What can be changed of an account here: neither its password nor whether it is an administrator of everything."""

    class Meta:
        model = get_user_model()
        fields = ("email", "is_active")
