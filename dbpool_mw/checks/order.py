"""Which middleware may stand before the pool's, because it makes no query."""

from __future__ import annotations

#: Middleware that makes no query by itself, whatever its settings; its receivers and
#: callbacks in the project may. Read in Django 4.2 to 6.1 and in the releases that the
#: comments name. A subclass isn't trusted: it may do anything.
MAKES_NO_QUERY = frozenset(
    {
        # Django's own. The rest may query: sessions, authentication, messages, sites,
        # redirects, flatpages, CSRF (whose token may be in a session) and the cache
        # (which may be in the database).
        "django.middleware.clickjacking.XFrameOptionsMiddleware",
        "django.middleware.common.BrokenLinkEmailsMiddleware",
        "django.middleware.common.CommonMiddleware",
        "django.middleware.csp.ContentSecurityPolicyMiddleware",
        "django.middleware.gzip.GZipMiddleware",
        "django.middleware.http.ConditionalGetMiddleware",
        "django.middleware.locale.LocaleMiddleware",
        "django.middleware.security.SecurityMiddleware",
        # Answers and headers: django-cors-headers 4.9, whitenoise 6.12, servestatic
        # 4.4, django-csp 4.0, django-permissions-policy 4.34, django-brotli 0.4,
        # django-compression-middleware 0.5.
        "corsheaders.middleware.CorsMiddleware",
        "whitenoise.middleware.WhiteNoiseMiddleware",
        "servestatic.middleware.ServeStaticMiddleware",
        "csp.middleware.CSPMiddleware",
        "django_permissions_policy.PermissionsPolicyMiddleware",
        "django_brotli.middleware.BrotliMiddleware",
        "compression_middleware.middleware.CompressionMiddleware",
        # Names and measures of requests: django-cid 3.0, django-guid 3.6,
        # django-prometheus 2.5, aws-xray-sdk 2.15.
        "cid.middleware.CidMiddleware",
        "django_guid.middleware.guid_middleware",
        "django_prometheus.middleware.PrometheusBeforeMiddleware",
        "aws_xray_sdk.ext.django.middleware.XRayMiddleware",
        # Tracers that insert themselves at the top when the process starts:
        # opentelemetry-instrumentation-django 0.66, elastic-apm 6.26 (which reads the
        # user after the request, from the connection that the request still has),
        # scout-apm 4.0, instana 3.20, blackfire 2026.10. Sentry, ddtrace and New Relic
        # wrap the middleware that is there.
        "opentelemetry.instrumentation.django.middleware.otel_middleware._DjangoMiddleware",
        "opentelemetry.instrumentation.django.middleware.sqlcommenter_middleware.SqlCommenter",
        "elasticapm.contrib.django.middleware.TracingMiddleware",
        "scout_apm.django.middleware.MiddlewareTimingMiddleware",
        "instana.instrumentation.django.middleware.InstanaMiddleware",
        "blackfire.hooks.django.middleware.BlackfireDjangoMiddleware",
    }
)
