"""Serve the gallery with an administrator: `python -m tests.gallery.serve [port]`, then /gallery/components/."""

import os
import sys

os.environ["DJANGO_SETTINGS_MODULE"] = "tests.gallery.settings"


def main() -> None:
    import django

    django.setup()
    from django.contrib.auth.models import User
    from django.core.management import call_command

    call_command("migrate", verbosity=0)
    User.objects.create_superuser("operator-1", password="gallery-only")
    User.objects.create_user("approver-1", first_name="Lea", last_name="Brandt", password="gallery-only")
    call_command("runserver", f"127.0.0.1:{sys.argv[1] if len(sys.argv) > 1 else '8766'}", use_reloader=False)


if __name__ == "__main__":
    main()
