"""Addresses of the fleet, the search and the page of one instance."""

from django.urls import URLPattern, path

from chromaadmin.dashboard import views

urlpatterns: list[URLPattern] = [
    path("", views.fleet, name="index"),
    path("search/", views.search, name="search"),
    path("instances/<uuid:instance_id>/", views.instance, name="instance"),
    path("instances/<uuid:instance_id>/check/", views.check, name="instance_check"),
]
