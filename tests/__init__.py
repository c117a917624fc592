from tests.library import choose

choose()
