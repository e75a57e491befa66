"""The rendezvous of launchers on several machines: torch's own over TCP, fixed for machines that join later.

torch announces the address of the ranks' store once, at the first rendezvous. A launcher that is restarted after its
machine was lost would never get it, and one that stayed would not learn that another machine holds the store now.
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
"""The name under which torch's launcher finds this rendezvous."""
NAME_KEY = "gptcli/rendezvous"


class Rendezvous(DynamicRendezvousHandler):
    """Gives each rendezvous a name that its ranks share, and announces the address of their store every time."""

    def get_backend(self) -> str:
        """Return the name of this rendezvous."""
        return BACKEND

    def next_rendezvous(self) -> RendezvousInfo:
        """Wait for the other machines, and return the ranks and the store of the processes to start."""
        info = super().next_rendezvous()
        store, first = info.store, info.bootstrap_store_info  # this store has the keys of this rendezvous only
        if info.rank == 0:
            store.set(NAME_KEY, secrets.token_hex(8))
        address, port = (first.master_addr, first.master_port) if first else (None, None)
        announced = RendezvousStoreInfo.build(info.rank, store, address, port)
        os.environ[RENDEZVOUS_VARIABLE] = store.get(NAME_KEY).decode()  # the ranks are started with it
        return RendezvousInfo(store, info.rank, info.world_size, announced)


def new_rendezvous(parameters: RendezvousParameters) -> Rendezvous:
    """Make the rendezvous of one launcher."""
    backend, store = create_backend(parameters)
    machines = (parameters.min_nodes, parameters.max_nodes)
    made: Rendezvous = Rendezvous.from_backend(parameters.run_id, store, backend, *machines, parameters.local_addr)
    return made


def register() -> None:
    """Register this rendezvous with torch's launcher."""
    rendezvous_handler_registry.register(BACKEND, new_rendezvous)
