"""Accounting for a cluster of `slurm`: slurmdbd on loopback, and MariaDB on a socket alone."""

import subprocess
from pathlib import Path

from slurm import LOOPBACK, Cluster, found, free_port

PROGRAMS = ("slurmdbd", "sacct", "sacctmgr", "mariadbd", "mariadb-install-db")
ACCOUNT = "lab"

_CONF = """
AccountingStorageType=accounting_storage/slurmdbd
AccountingStorageHost={loopback}
AccountingStoragePort={port}
AccountingStoragePass={root}/munge.socket
AccountingStorageEnforce=associations
"""
_DBD_CONF = """
AuthType=auth/munge
AuthInfo=socket={root}/munge.socket
DbdHost=localhost
DbdAddr={loopback}
DbdPort={port}
SlurmUser=root
PidFile={root}/slurmdbd.pid
LogFile={root}/slurmdbd.log
CommunicationParameters=NoInAddrAny
StorageType=accounting_storage/mysql
StorageHost=localhost
StorageUser=root
StorageLoc=slurm
"""


def missing_programs() -> list[str]:
    """What of the accounting's daemons is not installed."""
    return [name for name in PROGRAMS if found(name) is None]


class AccountingCluster(Cluster):
    """A cluster that runs jobs only for accounts, of which it has one."""

    def __init__(self, root: Path, **more):
        self.port = free_port()
        super().__init__(
            root, more=_CONF.format(root=root, loopback=LOOPBACK, port=self.port), **more
        )

    def start_munge(self) -> None:
        """And the database, its daemon, and the account, before anything asks for them."""
        super().start_munge()
        data, socket = self.root / "mariadb", self.root / "mariadb.socket"
        subprocess.run(
            ["mariadb-install-db", "--no-defaults", f"--datadir={data}", "--user=root",
             "--skip-test-db", "--auth-root-authentication-method=normal"],
            check=True, stdout=subprocess.DEVNULL, env=self.environment,
        )  # fmt: skip
        self.run(
            "mariadbd", "mariadbd", "--no-defaults", f"--datadir={data}", f"--socket={socket}",
            "--skip-networking", "--user=root", "--innodb-flush-log-at-trx-commit=0",
            f"--pid-file={self.root}/mariadb.pid",
        )  # fmt: skip
        self.until(socket.exists, "mariadbd")
        conf = self.root / "slurmdbd.conf"
        conf.write_text(
            _DBD_CONF.format(root=self.root, loopback=LOOPBACK, port=self.port), encoding="utf-8"
        )
        conf.chmod(0o600)
        # Its configuration cannot name the socket.
        self.run("slurmdbd", "env", f"MYSQL_UNIX_PORT={socket}", "slurmdbd", "-D")
        self.until(self._is_known, "slurmdbd")
        self._manage("add", "account", ACCOUNT)
        self._manage("add", "user", "root", f"account={ACCOUNT}")

    def _is_known(self) -> bool:
        """Whether the cluster is in the database, once its daemon answers."""
        self.client("sacctmgr", "--immediate", "add", "cluster", "agentsweep", check=False)
        listed = ("sacctmgr", "--noheader", "--parsable2", "show", "cluster", "format=cluster")
        return "agentsweep" in self.client(*listed, check=False)

    def _manage(self, *words: str) -> None:
        self.client("sacctmgr", "--immediate", *words)
