# Runs in the image, without a network: the task environment and the repository.
# usage: install.sh CONTEXT
context=$1
conda=/opt/miniconda3
environment=$conda/envs/testbed

mkdir -p $conda/bin $conda/envs
install -m 644 "$context/miniconda/activate" $conda/bin/activate
# As in a Miniconda, a `python` outside the task environment is the base one and lacks the
# project's dependencies.
ln -s /usr/bin/python3 $conda/bin/python
python3 -m venv --symlinks $environment
$environment/bin/pip install --quiet --no-index --find-links "$context/wheels" \
  --require-hashes --requirement "$context/requirements.lock"

mkdir /testbed
tar -xzf "$context"/source/*.tar.gz --strip-components 1 --no-same-owner -C /testbed
cd /testbed
find . -name '*.egg-info' -prune -exec rm -rf {} +
[ ! -d "$context/tests" ] || cp -r "$context/tests" .
# One history on every machine: the hashes of the commits are always the same. The first commit
# is the release, of the day on which it was packed; the second is the benchmark's own.
version=$(sed -n 's/^Version: //p' PKG-INFO)
GIT_AUTHOR_DATE=$(date --utc --reference PKG-INFO +%Y-%m-%dT00:00:00Z)
export GIT_AUTHOR_DATE GIT_COMMITTER_DATE="$GIT_AUTHOR_DATE"
export GIT_AUTHOR_NAME=SWE-bench GIT_AUTHOR_EMAIL=setup@swebench.invalid
export GIT_COMMITTER_NAME=$GIT_AUTHOR_NAME GIT_COMMITTER_EMAIL=$GIT_AUTHOR_EMAIL
git init --quiet --initial-branch main
git add --all
git commit --quiet --message "Version $version"
printf '%s\n' '*.egg-info/' '__pycache__/' '.pytest_cache/' '.coverage' >> .gitignore
git add --all
git commit --quiet --message 'SWE-bench'
$environment/bin/pip install --quiet --no-index --no-deps --no-build-isolation --editable .
