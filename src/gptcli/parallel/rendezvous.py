"""How launchers on several machines meet: torch's rendezvous over TCP, mended for machines that join later.

torch tells the address of the ranks' store once, at the first meeting. A launcher started anew after its machine was
lost would ask for it in vain, and one that stayed would not hear that another machine holds the store now.
"""

from __future__ import annotations

import os
import secrets

from torch.distributed.elastic.rendezvous import (
    RendezvousInfo,
    RendezvousParameters,
    RendezvousStoreInfo,
    rendezvous_handler_registry,
)
from torch.distributed.elastic.rendezvous.c10d_rendezvous_backend import create_backend
from torch.distributed.elastic.rendezvous.dynamic_rendezvous import DynamicRendezvousHandler

from gptcli.parallel.world import RENDEZVOUS_VARIABLE

BACKEND = "gptcli"
"""The name by which torch's launcher knows this rendezvous."""
NAME_KEY = "gptcli/rendezvous"


class Rendezvous(DynamicRendezvousHandler):
    """Gives each meeting a name that its ranks have in common, and tells everyone where their store is."""

    def get_backend(self) -> str:
        return BACKEND

    def next_rendezvous(self) -> RendezvousInfo:
        info = super().next_rendezvous()
        store, known = info.store, info.bootstrap_store_info  # the keys of this store are of this meeting only
        if info.rank == 0:
            store.set(NAME_KEY, secrets.token_hex(8))
            told = RendezvousStoreInfo.build(0, store, known.master_addr, known.master_port)
        else:
            told = RendezvousStoreInfo.build(info.rank, store, None)
        os.environ[RENDEZVOUS_VARIABLE] = store.get(NAME_KEY).decode()  # the ranks are started with it
        return RendezvousInfo(store, info.rank, info.world_size, told)


def meet(parameters: RendezvousParameters) -> Rendezvous:
    backend, store = create_backend(parameters)
    machines = (parameters.min_nodes, parameters.max_nodes)
    return Rendezvous.from_backend(parameters.run_id, store, backend, *machines, parameters.local_addr)


def register() -> None:
    """Let torch's launcher know this rendezvous."""
    rendezvous_handler_registry.register(BACKEND, meet)
