# Sourced at the start of every job's command (`sweep.shell_prefix`), by bash or sh under `set -eu`.
#
# What was killed could not try again by itself, as retries.py does: its shell starts it again, as
# often as `--retries` says. A command that ended by itself has had its word, and so has one that
# was asked to end (INT, TERM, HUP).

__agentsweep_may_go_on() {
  # Nobody would be told of a job whose Snakemake has gone.
  read -r _ _ _ __agentsweep_parent _ < "/proc/$$/stat" || return 1
  [ "$__agentsweep_left" -gt 0 ] 2> /dev/null && [ "$__agentsweep_parent" = "$PPID" ]
}

__agentsweep_try() {
  __agentsweep_left=${AGENTSWEEP_RETRIES:-0}
  # Not before the command, which may be asked as well and then cleans up.
  trap '__agentsweep_left=0' TERM
  while :; do
    __agentsweep_status=0
    command "$@" || __agentsweep_status=$?
    case $__agentsweep_status in
      # ILL, ABRT, BUS, FPE, KILL, SEGV.
      132 | 134 | 135 | 136 | 137 | 139) ;;
      *) return "$__agentsweep_status" ;;
    esac
    __agentsweep_said="killed by SIG$(kill -l "$__agentsweep_status")"
    if ! __agentsweep_may_go_on; then
      echo "agentsweep: $__agentsweep_said" >&2
      return "$__agentsweep_status"
    fi
    echo "$__agentsweep_said; trying again in 5 s ($__agentsweep_left left)" >&2
    sleep 5 && __agentsweep_may_go_on || return "$__agentsweep_status"
    __agentsweep_left=$((__agentsweep_left - 1))
    # From its beginning, where it is a file.
    [ ! -f /dev/stdin ] || exec < /dev/stdin
  done
}

# Only a run has a use for a model's key, and the doctor looks whether it is there.
agentsweep() {
  case ${1-} in
    run | doctor) ;;
    *) unset ${AGENTSWEEP_SECRETS-} ;;
  esac
  __agentsweep_try agentsweep "$@"
}

python() {
  unset ${AGENTSWEEP_SECRETS-}
  __agentsweep_try python "$@"
}
