"""A view for DBPOOL_MW_UNAVAILABLE_VIEW."""

from django.http import JsonResponse


def busy(request, exception):
    return JsonResponse(
        {"busy": exception.alias, "by": type(exception).__name__}, status=503
    )
