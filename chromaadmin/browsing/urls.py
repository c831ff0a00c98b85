"""Addresses of collections, records and vector segments."""

from django.urls import URLPattern, path

from chromaadmin.browsing import views

_COLLECTION = "instances/<uuid:instance_id>/collections/<str:collection_id>/"

urlpatterns: list[URLPattern] = [
    path(_COLLECTION, views.collection, name="collection"),
    path(f"{_COLLECTION}segment/", views.segment, name="segment"),
]
