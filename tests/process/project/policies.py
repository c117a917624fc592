"""Middleware that sends a Content Security Policy."""

import secrets

#: Nothing inline, nothing from elsewhere.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self'; form-action 'self'; base-uri 'none'"
)


class Policy:
    """Send a policy with each response, as a project does before Django 6."""

    def __init__(self, get_response):
        self.get_response = get_response

    def __call__(self, request):
        response = self.get_response(request)
        response.headers.setdefault("Content-Security-Policy", POLICY)
        return response


class Nonces:
    """Send a policy with a nonce, as a project with Django 6 or django-csp does."""

    def __init__(self, get_response):
        self.get_response = get_response

    def __call__(self, request):
        request.csp_nonce = nonce = secrets.token_urlsafe(16)
        response = self.get_response(request)
        response.headers["Content-Security-Policy"] = (
            f"default-src 'none'; script-src 'nonce-{nonce}' 'strict-dynamic'; "
            f"style-src 'nonce-{nonce}'; connect-src 'self'; img-src 'self'; "
            "form-action 'self'; base-uri 'none'; "
            "require-trusted-types-for 'script'; trusted-types dbpool_mw"
        )
        return response
