"""Sessions: what goes in comes out again, signed, in a cookie with the right flags."""

import pytest
from starlette.applications import Starlette
from starlette.middleware.sessions import SessionMiddleware
from starlette.responses import JSONResponse
from starlette.testclient import TestClient


def session_app(**options):
    """An application whose routes write, show and clear the session."""
    app = Starlette()
    app.add_middleware(SessionMiddleware, secret_key="a secret", **options)

    @app.route("/write", methods=["POST"])
    async def write(request):
        request.session.update(await request.json())
        return JSONResponse(request.session)

    @app.route("/show")
    async def show(request):
        return JSONResponse(request.session)

    @app.route("/clear", methods=["POST"])
    async def clear(request):
        request.session.clear()
        return JSONResponse(request.session)

    return app


def test_session_is_empty_at_first():
    response = TestClient(session_app()).get("/show")
    assert response.json() == {}
    assert "set-cookie" not in response.headers


def test_session_is_kept_between_requests():
    client = TestClient(session_app())
    assert client.post("/write", json={"name": "value"}).json() == {"name": "value"}
    assert client.get("/show").json() == {"name": "value"}


def test_cleared_session_expires_the_cookie():
    client = TestClient(session_app())
    client.post("/write", json={"name": "value"})
    response = client.post("/clear")
    assert "expires=Thu, 01 Jan 1970" in response.headers["set-cookie"]
    assert client.get("/show").json() == {}


def test_two_clients_have_two_sessions():
    app = session_app()
    TestClient(app).post("/write", json={"name": "value"})
    assert TestClient(app).get("/show").json() == {}


@pytest.mark.parametrize("https_only", [False, True])
def test_secure_flag_follows_https_only(https_only):
    client = TestClient(session_app(https_only=https_only), base_url="https://testserver")
    flags = client.post("/write", json={"name": "value"}).headers["set-cookie"]
    assert ("; secure" in flags) is https_only


def test_forged_cookie_is_ignored():
    client = TestClient(session_app())
    client.cookies.set("session", "eyJuYW1lIjogInZhbHVlIn0=.forged.signature")
    assert client.get("/show").json() == {}


def test_cookie_of_an_application_at_the_root_has_the_root_path():
    flags = TestClient(session_app()).post("/write", json={"name": "value"}).headers["set-cookie"]
    assert "path=/;" in flags
