"""Addresses of what a store names. An id that is no part of an address gets none, and its page can not be opened."""

from django.urls import NoReverseMatch, reverse

from chromaadmin.instances.models import Instance


def collection_url(instance: Instance, collection_id: str, page: str = "collection") -> str:
    """The page of a collection, or with ``page`` "segment" that of its index; empty where the id can not be addressed.

    Chroma's ids are UUIDs. A damaged or hostile store may name anything, also bytes that are no text.
    """
    try:
        return reverse(f"admin:{page}", args=[instance.pk, collection_id])
    except (NoReverseMatch, UnicodeEncodeError):
        return ""
