"""Whoever opens the service's address in a browser reads what it is and where to go on."""

import re

import httpx2

from tests.control_plane import ControlPlane


def test_the_first_page_says_what_this_is_and_its_links_work_without_a_key(plane: ControlPlane) -> None:
    with httpx2.Client(base_url=plane.url, verify=False, timeout=60) as anyone:
        page = anyone.get("/")
        assert page.status_code == 200
        assert page.headers["content-type"].startswith("text/html")
        assert f"version {plane.app.version}" in page.text
        assert f"OPENAI_BASE_URL={plane.url}/v1" in page.text
        links = re.findall(r'href="(/[^"]*)"', page.text)
        assert {"/docs", "/openapi.json", "/healthz", "/readyz"} == set(links)
        assert [link for link in links if anyone.get(link).status_code != 200] == []


def test_the_first_page_loads_nothing_from_elsewhere(plane: ControlPlane) -> None:
    page = httpx2.get(f"{plane.url}/", verify=False)
    assert "<script" not in page.text
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert not re.search(r'(?:src|href)="(?:https?:)?//', page.text)
