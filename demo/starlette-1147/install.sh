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
tar -xzf "$context"/source/starlette-*.tar.gz --strip-components 1 --no-same-owner -C /testbed
cd /testbed
rm -rf starlette.egg-info
# One history on every machine: the hashes of the commits are always the same.
export GIT_AUTHOR_NAME=SWE-bench GIT_AUTHOR_EMAIL=setup@swebench.invalid
export GIT_AUTHOR_DATE='2021-02-02T00:00:00Z'
export GIT_COMMITTER_NAME=$GIT_AUTHOR_NAME GIT_COMMITTER_EMAIL=$GIT_AUTHOR_EMAIL
export GIT_COMMITTER_DATE=$GIT_AUTHOR_DATE
git init --quiet --initial-branch main
git add --all
git commit --quiet --message 'Version 0.14.2'
cp -r "$context/tests" tests
printf '%s\n' '*.egg-info/' '__pycache__/' '.pytest_cache/' '.coverage' > .gitignore
git add --all
git commit --quiet --message 'SWE-bench'
$environment/bin/pip install --quiet --no-index --no-deps --no-build-isolation --editable .
