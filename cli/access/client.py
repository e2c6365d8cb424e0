"""The administrators' part of the REST API as Python calls."""

from typing import Any
from urllib.parse import quote

from tunesmith.cli.client import Client
from tunesmith.tuning.api.access.audit import AuditPage
from tunesmith.tuning.api.access.invitations import InvitationList, InvitationObject, NewInvitation
from tunesmith.tuning.api.access.keys import KeyList, KeyObject, NewKeyObject
from tunesmith.tuning.api.access.projects import ProjectList, ProjectObject
from tunesmith.tuning.values.json_objects import Json, present


class AdminClient(Client):
    """The same service, with the calls that take an admin's key."""

    def create_key(self, body: Json) -> NewKeyObject:
        """Make a key; the answer has it, this once."""
        return self.ask(NewKeyObject, "POST", "/keys", json=body)

    def keys(self, *, project: str | None = None) -> list[KeyObject]:
        """All keys or those of a project, newest first."""
        return self.ask(KeyList, "GET", "/keys", params=present(project=project)).data

    def rotate_key(self, key_id: str, *, overlap_seconds: int) -> NewKeyObject:
        """Make a key in another's place, which goes on for a while."""
        return self.ask(NewKeyObject, "POST", _key(key_id, "/rotate"), json={"overlap_seconds": overlap_seconds})

    def set_key_expiry(self, key_id: str, *, expires_in_seconds: int | None) -> KeyObject:
        """Say when a key ends; None: never."""
        body = {"expires_in_seconds": expires_in_seconds}
        return self.ask(KeyObject, "POST", _key(key_id, "/expiry"), json=body, is_repeatable=True)

    def revoke_key(self, key_id: str) -> KeyObject:
        """The key opens nothing more."""
        return self.ask(KeyObject, "DELETE", _key(key_id))

    def projects(self) -> list[ProjectObject]:
        """Every project with its limits and what it has."""
        return self.ask(ProjectList, "GET", "/projects").data

    def set_project_limits(self, name: str, limits: dict[str, Any]) -> ProjectObject:
        """Make a project, or change what it may have."""
        return self.ask(ProjectObject, "POST", f"/projects/{quote(name, safe='')}", json=limits, is_repeatable=True)

    def audit(self, *, limit: int, after: str | None = None) -> AuditPage:
        """Who did what when, newest first."""
        return self.ask(AuditPage, "GET", "/audit", params=present(limit=limit, after=after))

    def invite_worker(self, body: Json) -> NewInvitation:
        """An invitation for one machine; the answer has the token, this once."""
        return self.ask(NewInvitation, "POST", "/workers/invitations", json=body)

    def invitations(self) -> list[InvitationObject]:
        """All invitations, newest first."""
        return self.ask(InvitationList, "GET", "/workers/invitations").data

    def withdraw_invitation(self, invitation_id: str) -> InvitationObject:
        """Nobody joins with it any more."""
        return self.ask(InvitationObject, "DELETE", f"/workers/invitations/{quote(invitation_id, safe='')}")


def _key(key_id: str, rest: str = "") -> str:
    return f"/keys/{quote(key_id, safe='')}{rest}"
