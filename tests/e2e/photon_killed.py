"""Runs Photon and kills its own process, SIGKILL, when a client has replied in some round."""

import os
import signal
import sys

from hocket.fl.core.observers import Silent
from hocket.photon import train_photon


class Killer(Silent):
    def __init__(self, at_round: int, moment: str) -> None:
        self.at_round, self.moment = at_round, moment

    def replied(self, reply) -> None:
        if self.moment == "replied" and reply.round == self.at_round:
            os.kill(os.getpid(), signal.SIGKILL)

    def finished(self, report) -> None:
        if self.moment == "finished" and report.round == self.at_round:
            os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    train_photon(sys.argv[1], observers=[Killer(2, sys.argv[2])])
