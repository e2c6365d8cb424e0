"""Which adapters are known by name, and which of them are in memory: within a bound of bytes, the longest unused go.

A name stays known when its weights go; the next request for it has them read again, from the same folder and with the
same hash. What is being computed with is pinned and never goes.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from pathlib import Path

from tunesmith.tuning.codes import ErrorCode
from tunesmith.worker.inference.engine import memory
from tunesmith.worker.inference.engine.adapters.files import AdapterWeights, Base, read_adapter
from tunesmith.worker.inference.engine.refusal import Refusal


class Adapter:
    """One that was loaded under a name. `weights` are None while they are not in memory."""

    def __init__(self, name: str, folder: Path, weights: AdapterWeights) -> None:
        self.name, self.folder, self.sha256 = name, folder, weights.sha256
        self.bytes = weights.bytes
        self.weights: AdapterWeights | None = weights
        self.holders = 0  # requests for it, also those that wait
        self.pins = 0  # of these, what is being computed


class Residents:
    """The adapters of one base. Safe to call from any thread."""

    def __init__(self, base: Base, *, most_bytes: int) -> None:
        self._base, self._most_bytes = base, most_bytes
        self._lock = threading.RLock()
        self._named: OrderedDict[str, Adapter] = OrderedDict()
        self._resident: OrderedDict[int, Adapter] = OrderedDict()  # by identity, the longest unused first
        self.bytes = 0

    def names(self) -> list[str]:
        """Of all that can be asked for."""
        with self._lock:
            return list(self._named)

    def load(self, name: str, folder: Path, *, sha256: str | None = None) -> None:
        """Make an adapter known, with its weights in memory. The same once more changes nothing.

        Raises:
            Refusal: another one has this name, it cannot be used (`read_adapter`), or it is larger than the bound.
        """
        weights = read_adapter(folder, base=self._base, sha256=sha256)
        memory.give_back()
        if weights.bytes > self._most_bytes:
            raise Refusal(
                f"{name} needs {weights.bytes:,} bytes, all adapters together may have {self._most_bytes:,}. Start the "
                "engine with a larger --max-adapter-bytes.",
                param="lora_path",
            )
        with self._lock:
            known = self._named.get(name)
            if known is not None:
                if known.folder == folder and known.sha256 == weights.sha256:
                    return
                raise Refusal(
                    f"Another adapter is loaded as {name}. Unload it first, or take another name.", param="lora_name"
                )
            adapter = self._named[name] = Adapter(name, folder, weights)
            if self._make_room(weights.bytes):
                self._admit(adapter, weights)
            else:
                adapter.weights = None  # all others are pinned: it is read when it is asked for

    def unload(self, name: str) -> None:
        """Forget a name. Requests that hold the adapter keep it to their end.

        Raises:
            Refusal: nothing has this name.
        """
        with self._lock:
            adapter = self._named.pop(name, None)
            if adapter is None:
                raise unknown_model(name, param="lora_name")
            self._drop_if_forgotten(adapter)

    def hold(self, name: str) -> Adapter:
        """The adapter of a name, for a request that may wait: it outlives its name until `release`.

        Raises:
            Refusal: nothing has this name.
        """
        with self._lock:
            adapter = self._named.get(name)
            if adapter is None:
                raise unknown_model(name)
            adapter.holders += 1
            return adapter

    def release(self, adapter: Adapter) -> None:
        """End one `hold`."""
        with self._lock:
            adapter.holders -= 1
            self._drop_if_forgotten(adapter)

    def pin(self, adapter: Adapter) -> AdapterWeights | None:
        """The weights of a held adapter, which stay until `unpin`; read again if they are not in memory.

        None while there is no room, because what fills it is pinned.

        Raises:
            Refusal: the file was altered since the adapter was loaded, or cannot be read any more.
        """
        with self._lock:
            if adapter.weights is None:
                if not self._make_room(adapter.bytes):
                    return None
                self._admit(adapter, read_adapter(adapter.folder, base=self._base, sha256=adapter.sha256))
            self._resident.move_to_end(id(adapter))
            adapter.pins += 1
            return adapter.weights

    def unpin(self, adapter: Adapter) -> None:
        """End one `pin`."""
        with self._lock:
            adapter.pins -= 1
            self._drop_if_forgotten(adapter)

    def _admit(self, adapter: Adapter, weights: AdapterWeights) -> None:
        adapter.weights = weights
        self._resident[id(adapter)] = adapter
        self.bytes += adapter.bytes

    def _make_room(self, wanted_bytes: int) -> bool:
        free = [adapter for adapter in self._resident.values() if not adapter.pins]
        if self.bytes - sum(adapter.bytes for adapter in free) + wanted_bytes > self._most_bytes:
            return False
        for adapter in sorted(free, key=self._is_forgotten):  # stable: a folder without a name may be gone
            if self.bytes + wanted_bytes > self._most_bytes:
                self._drop(adapter)
        return True

    def _is_forgotten(self, adapter: Adapter) -> bool:
        return self._named.get(adapter.name) is not adapter

    def _drop_if_forgotten(self, adapter: Adapter) -> None:
        if not adapter.holders and not adapter.pins and adapter.weights is not None and self._is_forgotten(adapter):
            self._drop(adapter)

    def _drop(self, adapter: Adapter) -> None:
        adapter.weights = None
        del self._resident[id(adapter)]
        self.bytes -= adapter.bytes


def unknown_model(name: str, *, param: str = "model") -> Refusal:
    """The error for a name that nothing has."""
    return Refusal(
        f"The model {name!r:.200} is not loaded here.", code=ErrorCode.MODEL_NOT_FOUND, param=param, http_status=404
    )
