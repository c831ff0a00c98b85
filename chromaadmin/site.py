"""The admin site at the root of the application; only the project's own admin modules register with it."""

from django.contrib import admin


class ChromaAdminSite(admin.AdminSite):
    site_header = "Chroma Admin"
    site_title = "Chroma Admin"
    index_title = "Fleet"
