"""A Flower strategy whose rounds are recorded in a store: one line around any of Flower's."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flwr.serverapp.strategy import Strategy

from hocket.fl.core.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
    from flwr.serverapp import Grid
    from numpy.typing import NDArray

    from hocket.fl.store.recording import Recorder


class RecordedStrategy(Strategy):
    """A strategy of Flower's Message API; in all but recording it is the one inside.

    ``strategy = RecordedStrategy(FedAvg(), recorder)``, and then ``strategy.start(...)`` as before.
    Devices are named ``node-`` and Flower's number of the node.

    Args:
        inside: What decides.
        recorder: Where rounds go.
        weighted_by: The metric that says how many examples an update is of, as Flower's own
            strategies have it.
    """

    def __init__(
        self, inside: Strategy, recorder: Recorder, weighted_by: str = "num-examples"
    ) -> None:
        self._inside, self._recorder, self._weighted_by = inside, recorder, weighted_by

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Configure a round of training; the model that the first begins with is recorded."""
        if server_round == 1:
            self._recorder.model(0, _numpy(arrays), {})
        return self._inside.configure_train(server_round, arrays, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Aggregate a round; its updates and its model are recorded."""
        kept = list(replies)
        examples: dict[str, int] = {}
        updates = []
        for reply in kept:
            if reply.has_error():
                continue
            device = f"node-{reply.metadata.src_node_id}"
            metrics = {
                name: float(value)
                for record in reply.content.metric_records.values()
                for name, value in record.items()
                if isinstance(value, int | float)
            }
            if metrics.get(self._weighted_by, 0) < 1:
                raise ConfigError(
                    f"round {server_round}, {device}: its metrics lack {self._weighted_by!r}, a "
                    "count of 1 or more; name the one there is by weighted_by"
                )
            examples[device] = int(metrics.pop(self._weighted_by))
            # Before the strategy has a chance to change what it was given.
            arrays = {
                name: array
                for record in reply.content.array_records.values()
                for name, array in _numpy(record).items()
            }
            updates.append((device, arrays, metrics))
        aggregated, metric_record = self._inside.aggregate_train(server_round, kept)
        for device, arrays, metrics in updates:
            self._recorder.update(server_round, device, arrays, examples[device], metrics)
        if aggregated is not None:
            total = sum(examples.values())
            shares = {device: count / total for device, count in examples.items()}
            self._recorder.model(server_round, _numpy(aggregated), shares)
        return aggregated, metric_record

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Configure a round of evaluation."""
        return self._inside.configure_evaluate(server_round, arrays, config, grid)

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Aggregate a round of evaluation."""
        return self._inside.aggregate_evaluate(server_round, replies)

    def summary(self) -> None:
        """Log the strategy inside."""
        self._inside.summary()


def _numpy(arrays: ArrayRecord) -> dict[str, NDArray[Any]]:
    return {name: array.numpy() for name, array in arrays.items()}
