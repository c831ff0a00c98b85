"""Addresses of the audit trail; the admin site puts its login in front of each."""

from django.urls import URLPattern, path

from chromaadmin.audit import views

urlpatterns: list[URLPattern] = [
    path("audit/", views.audit, name="audit"),
    path("audit/verify/", views.audit_verify, name="audit_verify"),
    path("audit/export/<str:kind>/", views.audit_export, name="audit_export"),
]
