"""Gunicorn's settings: threads, because pages wait for reader children; one process, because SQLite has one writer."""

from chromaadmin.platform import lifeline
from chromaadmin.settings.base import CONFIG, LOGGING

wsgi_app = "chromaadmin.wsgi:application"
worker_class = "gthread"
workers = CONFIG.web_workers
threads = 8
timeout = 60
graceful_timeout = 10
keepalive = 5
# A socket that takes commands is one more door; nobody here uses it.
control_socket_disable = True
# Paths hold one-time tokens: what users did stands in the audit, not in an access log.
accesslog = None
logconfig_dict = {**LOGGING, "loggers": {"gunicorn.error": {"handlers": [], "level": "INFO", "propagate": True}}}

# The main process never loads Django; its workers inherit the watch by fork.
lifeline.attach()
