"""Addresses of the list of instances, of registering one, and of what people say of it."""

from django.urls import URLPattern, path

from chromaadmin.instances import views

urlpatterns: list[URLPattern] = [
    path("instances/", views.instances, name="instances"),
    path("instances/add/", views.add, name="instance_add"),
    path("instances/<uuid:instance_id>/settings/", views.change, name="instance_settings"),
    path("instances/<uuid:instance_id>/identity/", views.identity, name="instance_identity"),
    path("instances/<uuid:instance_id>/remove/", views.remove, name="instance_remove"),
]
