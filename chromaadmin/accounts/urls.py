"""The address of the one-time link; the pages of the team are Django's, below the admin site."""

from django.urls import URLPattern, path

from chromaadmin.accounts import views

urlpatterns: list[URLPattern] = [path("setup/<str:token>/", views.setup, name="setup")]
