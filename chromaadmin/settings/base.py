"""Django settings of every real process; what differs between installations comes from `config.Config`."""

from pathlib import Path
from typing import Any

from chromaadmin.platform.home import Home
from chromaadmin.settings.config import BASE_DIR, Config

CONFIG = Config()
HOME = Home.prepare(CONFIG.home)

# What other parts of the project read.
CHROMAADMIN_HOME: Path = HOME.path
CHROMAADMIN_HOST: str = CONFIG.host
CHROMAADMIN_ROOTS: tuple[Path, ...] = CONFIG.roots
CHROMAADMIN_RUNS_DIR: Path = HOME.runs
# Keys of secrets at rest, newest first (MultiFernet), apart from SECRET_KEY so that each can be rotated alone.
CHROMAADMIN_FIELD_KEYS: tuple[str, ...] = HOME.key_lines("field.key")
# The audit chain's HMAC key lies outside the database: who can write rows can not seal them again.
CHROMAADMIN_AUDIT_KEY: str = HOME.key("audit.key")

SECRET_KEY, *SECRET_KEY_FALLBACKS = HOME.key_lines("secret.key", size_bytes=64)
DEBUG = False
ALLOWED_HOSTS: list[str] = ["localhost", "127.0.0.1", "[::1]", *CONFIG.allowed_hosts]
if CONFIG.bind_host not in {"", "0.0.0.0", "::"}:  # noqa: S104 - compared, not bound
    ALLOWED_HOSTS.append(f"[{CONFIG.bind_host}]" if ":" in CONFIG.bind_host else CONFIG.bind_host)
CSRF_TRUSTED_ORIGINS: list[str] = list(CONFIG.trusted_origins)
ROOT_URLCONF = "chromaadmin.urls"
WSGI_APPLICATION = "chromaadmin.wsgi.application"
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"

# contrib first: its post_migrate handlers make the permissions that chromaadmin's handler then takes from django_q.
# chromaadmin before django_q: its `qcluster` command is the guarded one.
INSTALLED_APPS = [
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.sessions",
    "django.contrib.messages",
    "django.contrib.humanize",
    "whitenoise.runserver_nostatic",
    "django.contrib.staticfiles",
    "chromaadmin.apps.ChromaAdminConfig",
    "chromaadmin.apps.ChromaAdminSiteConfig",
    "chromaadmin.dashboard",
    "chromaadmin.browsing",
    "chromaadmin.runs",
    "chromaadmin.instances",
    "chromaadmin.accounts",
    "chromaadmin.audit",
    "allauth",
    "allauth.account",
    "allauth.mfa",
    "django_htmx",
    "django_q",
]

MIDDLEWARE = [
    "django.middleware.security.SecurityMiddleware",
    "chromaadmin.middleware.SecurityHeadersMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.middleware.csrf.CsrfViewMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "chromaadmin.middleware.SessionLimitsMiddleware",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
    "allauth.account.middleware.AccountMiddleware",
    "django_htmx.middleware.HtmxMiddleware",
]

TEMPLATES: list[dict[str, Any]] = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "DIRS": [BASE_DIR / "templates"],
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ],
            "builtins": ["chromaadmin.templatetags.ui"],
        },
    }
]

# --- Database -----------------------------------------------------------------------------------------------------
# With Django's defaults four writers got 923 "database is locked"; with these, none. No ATOMIC_REQUESTS: with IMMEDIATE
# every page would take the write lock.
DATABASES: dict[str, dict[str, Any]] = {
    "default": {
        "ENGINE": "django.db.backends.sqlite3",
        "NAME": HOME.database,
        "OPTIONS": {
            "timeout": 20,
            "transaction_mode": "IMMEDIATE",
            "init_command": ("PRAGMA journal_mode=WAL;PRAGMA synchronous=NORMAL;PRAGMA journal_size_limit=67108864;"),
        },
    }
}

# The lock-out of logins must hold across web processes and restarts, and no cache may hold pickles (see the backend).
# `qstat` is where django-q2's clusters say that they live.
CACHES: dict[str, dict[str, Any]] = {
    alias: {
        "BACKEND": "chromaadmin.platform.cache.JsonFileCache",
        "LOCATION": str(HOME.cache / alias),
        "OPTIONS": {"MAX_ENTRIES": 10_000},
    }
    for alias in ("default", "qstat")
}

# --- Queue --------------------------------------------------------------------------------------------------------
# A doorbell and a process pool, not a job system: Run is the truth. Two clusters, chosen by Q_CLUSTER_NAME: `console`
# and `host-<slug>`, the jobs of one host; jobs workers only supervise child processes, so four of them are cheap.
CONSOLE_QUEUE = "console"
JOBS_QUEUE = CONFIG.jobs_queue
Q_CLUSTER: dict[str, Any] = {
    "name": "chromaadmin",
    "broker_class": "chromaadmin.runs.broker.RunBroker",
    "orm": "default",
    "workers": 1,
    "queue_limit": 1,
    "bulk": 1,
    "timeout": 300,
    "retry": 900,
    "max_attempts": 1,
    "ack_failures": True,
    "catch_up": False,
    # A Schedule row names any function: whoever could write one would run code. Our schedules are our own tables.
    "scheduler": False,
    # Nothing is kept of a task: Run is the record, and a Task row is a pickle that nobody shall read.
    "save_limit": -1,
    "recycle": 50,
    "poll": 1,
    "guard_cycle": 1,
    "cache": "qstat",
    "ALT_CLUSTERS": {JOBS_QUEUE: {"workers": CONFIG.workers, "queue_limit": CONFIG.workers}},
}

# --- Accounts -----------------------------------------------------------------------------------------------------
AUTHENTICATION_BACKENDS = ["django.contrib.auth.backends.ModelBackend"]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": "django.contrib.auth.password_validation.UserAttributeSimilarityValidator"},
    {"NAME": "django.contrib.auth.password_validation.MinimumLengthValidator", "OPTIONS": {"min_length": 12}},
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
    {"NAME": "django.contrib.auth.password_validation.NumericPasswordValidator"},
]
LOGIN_URL = "account_login"
LOGIN_REDIRECT_URL = "/"
LOGOUT_REDIRECT_URL = "account_login"
ACCOUNT_ADAPTER = "chromaadmin.platform.login.AccountAdapter"
ACCOUNT_LOGIN_METHODS = {"username"}
ACCOUNT_SIGNUP_FIELDS = ["username*", "password1*", "password2*"]
ACCOUNT_EMAIL_VERIFICATION = "none"
ACCOUNT_SESSION_REMEMBER = True  # The cookie lives as long as the session may; SessionLimitsMiddleware ends it earlier.
ACCOUNT_LOGOUT_ON_PASSWORD_CHANGE = False
ACCOUNT_REAUTHENTICATION_TIMEOUT = 600
# Back-off by address and by account: five wrong passwords close an account for five minutes, fifteen for an hour.
ACCOUNT_RATE_LIMITS = {
    "login": "30/m/ip",
    "login_failed": "10/m/ip,60/h/ip,5/5m/key,15/h/key",
    "reauthenticate": "10/m/user",
    "change_password": "5/m/user",
}
ALLAUTH_TRUSTED_PROXY_COUNT = CONFIG.proxies
MFA_SUPPORTED_TYPES = ["totp", "recovery_codes"]
MFA_TOTP_ISSUER = "Chroma Admin"

SESSION_COOKIE_AGE = 12 * 60 * 60
SESSION_IDLE_SECONDS = 30 * 60
SESSION_COOKIE_NAME = "__Host-chromaadmin-session" if CONFIG.tls else "chromaadmin-session"
SESSION_COOKIE_HTTPONLY = True
SESSION_COOKIE_SAMESITE = "Lax"
SESSION_COOKIE_SECURE = CONFIG.tls
CSRF_COOKIE_NAME = "__Host-chromaadmin-csrf" if CONFIG.tls else "chromaadmin-csrf"
CSRF_COOKIE_HTTPONLY = True
CSRF_COOKIE_SAMESITE = "Lax"
CSRF_COOKIE_SECURE = CONFIG.tls

# --- Browser ------------------------------------------------------------------------------------------------------
SECURE_SSL_REDIRECT = CONFIG.tls
SECURE_REDIRECT_EXEMPT = [r"^healthz$", r"^readyz$"]
SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https") if CONFIG.tls and CONFIG.proxies else None
SECURE_HSTS_SECONDS = 365 * 24 * 60 * 60 if CONFIG.tls else 0
SECURE_HSTS_INCLUDE_SUBDOMAINS = CONFIG.tls
SECURE_HSTS_PRELOAD = CONFIG.tls
SECURE_CONTENT_TYPE_NOSNIFF = True
SECURE_REFERRER_POLICY = "same-origin"
X_FRAME_OPTIONS = "DENY"
# Django 6's name and form, so that its own middleware can take over.
SECURE_CSP: dict[str, list[str]] = {
    "default-src": ["'self'"],
    "object-src": ["'none'"],
    "base-uri": ["'self'"],
    "frame-ancestors": ["'none'"],
    "form-action": ["'self'"],
}
_UNUSED_FEATURES = "accelerometer camera display-capture geolocation gyroscope microphone midi payment usb"
PERMISSIONS_POLICY: dict[str, list[str]] = {feature: [] for feature in _UNUSED_FEATURES.split()}

# --- Static files, language, time -----------------------------------------------------------------------------------
STATIC_URL = "/static/"
STATIC_ROOT = HOME.static
FILE_UPLOAD_PERMISSIONS = 0o600  # collected files too: nothing below the home is for others
STORAGES = {
    "default": {"BACKEND": "django.core.files.storage.FileSystemStorage"},
    "staticfiles": {"BACKEND": "whitenoise.storage.CompressedManifestStaticFilesStorage"},
}
LANGUAGE_CODE = "en-us"
USE_I18N = True
TIME_ZONE = "UTC"
USE_TZ = True
USE_THOUSAND_SEPARATOR = True

# --- Logs ---------------------------------------------------------------------------------------------------------
LOGGING: dict[str, Any] = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"json": {"()": "chromaadmin.platform.logs.JsonFormatter"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "json"}},
    "root": {"handlers": ["stderr"], "level": "INFO"},
    "loggers": {
        # Django gives these handlers of their own; one line per record is enough.
        "django": {"handlers": [], "level": "INFO", "propagate": True},
        "django.server": {"handlers": [], "level": "INFO", "propagate": True},
        "django-q": {"handlers": [], "level": "INFO", "propagate": True},
    },
}
