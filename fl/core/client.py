"""What a device does with a task, whichever engine brought it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from hocket.fl.core.backend import LocalTraining
from hocket.fl.core.engine import failure
from hocket.fl.core.errors import UpdateError
from hocket.fl.core.types import ClientUpdate

if TYPE_CHECKING:
    from hocket.fl.core.backend import Backend
    from hocket.fl.core.data import Partitions
    from hocket.fl.core.parameters import Parameters
    from hocket.fl.core.types import ClientTask, Reply

ARTIFACT_DIGEST = "artifact_digest"
"""Setting of a task: the digest of the artifact that it is for, where there is one."""


class Client(Protocol):
    """Does tasks, one at a time."""

    def run(self, task: ClientTask, parameters: Parameters) -> ClientUpdate:
        """Do a task; whatever it raises fails this task alone."""
        ...


class ClientFactory(Protocol):
    """Makes a client where it is used; picklable, so that worker processes can have one."""

    def __call__(self) -> Client:
        """Return a new client."""
        ...

    def device_ids(self) -> list[str]:
        """Return the devices it can stand for."""
        ...


@dataclass
class BackendClient:
    """A client of any device: a model, and everyone's data to read one device's from.

    Attributes:
        backend: Loaded anew with every task.
        partitions: Whose part it reads, the task says.
        artifact_digest: Of the artifact that the model is made from, if it is from one.
    """

    backend: Backend
    partitions: Partitions
    artifact_digest: str = ""

    def run(self, task: ClientTask, parameters: Parameters) -> ClientUpdate:
        """Train or evaluate; an evaluation is of what the device held out.

        Raises:
            UpdateError: The task is for another artifact, or the parameters for another model.
        """
        check_artifact(task, self.artifact_digest)
        self.backend.load_parameters(parameters)
        training = LocalTraining.from_config(task.config)
        if task.kind == "train":
            examples = self.partitions.load(task.device_id)
            result = self.backend.train(training, examples, task.seed)
            changed = self.backend.parameters()
        else:
            examples = self.partitions.held_out(task.device_id)
            result = self.backend.evaluate(examples)
            changed = {}
        return ClientUpdate(
            task.round, task.device_id, task.kind, changed, result.num_examples, result.metrics
        )


def check_artifact(task: ClientTask, digest: str) -> None:
    """Check that a task is for the artifact that a client has.

    Raises:
        UpdateError: It is for another one.
    """
    wanted = task.config.get(ARTIFACT_DIGEST, "")
    if wanted != digest:
        raise UpdateError(
            f"the task is for artifact {wanted or '(none)'}, this client has {digest or '(none)'}"
        )


def run_safely(client: Client, task: ClientTask, parameters: Parameters) -> Reply:
    """Do a task and return what came of it, a failure where the client raised."""
    try:
        return client.run(task, parameters)
    except Exception as error:  # noqa: BLE001 - a client may raise anything; the failure says what
        return failure(task, error)
