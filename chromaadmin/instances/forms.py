"""Forms about instances: only the fields that stand here can be set."""

from typing import Any

from django import forms

from chromaadmin.instances.models import Environment, Instance


def split_tags(text: str) -> list[str]:
    """Tags as typed, separated by commas or line ends, each once."""
    words = (" ".join(word.split()) for word in text.replace("\n", ",").split(","))
    return list(dict.fromkeys(word for word in words if word))


class TagsField(forms.CharField):
    """Words separated by commas; cleans to a list."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(required=False, max_length=600, strip=True, **kwargs)

    def clean(self, value: Any) -> list[str]:
        tags = split_tags(super().clean(value))
        if long := next((tag for tag in tags if len(tag) > 60), ""):
            raise forms.ValidationError("A tag has at most 60 characters: %(tag)s", params={"tag": long})
        return tags


class PathForm(forms.Form):
    """The path that is to be probed."""

    path = forms.CharField(label="Path on this machine", max_length=4096, strip=True)


class RegisterForm(PathForm):
    """What a new instance is called and used for."""

    name = forms.CharField(
        max_length=120, help_text="What people call it, and type to confirm. It can be changed later."
    )
    environment = forms.ChoiceField(
        choices=Environment.choices,
        initial=Environment.DEVELOPMENT,
        help_text="In production every change asks for the name and a reason.",
    )
    tags = TagsField(help_text="Words that group instances, separated by commas; roles can be given on them.")


class SettingsForm(forms.Form):
    """What people say of an instance."""

    name = forms.CharField(max_length=120)
    environment = forms.ChoiceField(
        choices=Environment.choices, help_text="In production every change asks for the name and a reason."
    )
    tags = TagsField(help_text="Separated by commas; roles can be given on them.")
    notes = forms.CharField(
        required=False, max_length=4000, widget=forms.Textarea(attrs={"rows": 3}), help_text="Owner, purpose, contact."
    )

    @classmethod
    def of(cls, instance: Instance, data: Any = None) -> "SettingsForm":
        """The form with what holds now."""
        now = {
            "name": instance.name,
            "environment": instance.environment,
            "tags": ", ".join(sorted(instance.tag_names)),
            "notes": instance.notes,
        }
        return cls(data, initial=now)


class RemoveForm(forms.Form):
    """The name, typed, of the instance whose registration goes."""

    typed_name = forms.CharField(label="Type the instance's name", max_length=120, strip=False)
