"""Judges every result that waits: its loss on the held-out rows against the champion's.   judge.py SCHEDULE

TUNESMITH_URL and TUNESMITH_API_KEY say where; MARGIN (0.02) is by how much the loss must be lower. Both losses are of
the same `validation_file`, which the schedule names. Exits with 6 when a result was refused, as `tunesmith` does.
"""

import os
import sys
from typing import Any

import httpx2

MARGIN = float(os.environ.get("MARGIN", "0.02"))


def main(schedule: str) -> int:
    key = {"Authorization": f"Bearer {os.environ['TUNESMITH_API_KEY']}"}
    root = os.environ["TUNESMITH_URL"].rstrip("/").removesuffix("/v1")
    refused = 0
    with httpx2.Client(base_url=f"{root}/v1", headers=key, timeout=30) as service:
        firings = get(service, f"/schedules/{schedule}/firings?limit=100")["data"]
        for firing in [one for one in firings if one["state"] == "awaiting_verdict"]:
            path = f"/schedules/{schedule}/firings/{firing['id']}/verdict"
            judged = service.post(path, json=verdict_on(service, firing)).raise_for_status().json()
            print(f"{judged['state']}  {judged['model']}  {judged['reason']}")
            refused += judged["state"] != "promoted"
    return 6 if refused else 0


def verdict_on(service: httpx2.Client, firing: dict[str, Any]) -> dict[str, Any]:
    loss = held_out_loss(service, firing["job_id"])
    if firing["champion"] is None:
        return {"verdict": "better", "summary": f"loss {loss:.3f}, the first", "numbers": {"loss": loss}}
    champion = held_out_loss(service, get(service, f"/models/{firing['champion']}")["tunesmith"]["job_id"])
    return {
        "verdict": "better" if loss < champion - MARGIN else "not_better",
        "summary": f"loss {loss:.3f}, the champion's {champion:.3f}",
        "numbers": {"loss": loss, "champion_loss": champion, "margin": MARGIN},
        "champion": firing["champion"],
    }


def held_out_loss(service: httpx2.Client, job_id: str) -> float:
    points = get(service, f"/fine_tuning/jobs/{job_id}/metrics")["data"]
    return float(next(point["valid_loss"] for point in reversed(points) if point.get("valid_loss") is not None))


def get(service: httpx2.Client, path: str) -> Any:
    return service.get(path).raise_for_status().json()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
