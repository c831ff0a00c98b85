"""Addresses of operations and runs; the admin site puts its login in front of each."""

from django.urls import URLPattern, path

from chromaadmin.runs import views

urlpatterns: list[URLPattern] = [
    path("instances/<uuid:instance_id>/operations/<slug:operation>/", views.operation, name="operation"),
    path(
        "instances/<uuid:instance_id>/operations/<slug:operation>/approve/",
        views.operation_approve,
        name="operation_approve",
    ),
    path("runs/", views.runs, name="runs"),
    path("runs/<uuid:run_id>/", views.run, name="run"),
    path("runs/<uuid:run_id>/live/", views.run_live, name="run_live"),
    path("runs/<uuid:run_id>/cancel/", views.run_cancel, name="run_cancel"),
    path("runs/<uuid:run_id>/log/", views.run_log, name="run_log"),
    path("runs/<uuid:run_id>/files/<str:name>", views.run_file, name="run_file"),
]
