#### curate: script 1 of 1, 1 task ####
#!/bin/bash

# Parameters
#SBATCH --chdir=/runs/tiny-test-slurm/code
#SBATCH --comment=run=tiny-test-slurm,attempt=1
#SBATCH --cpus-per-task=2
#SBATCH --job-name=tiny-test-slurm.curate
#SBATCH --mem=3G
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --open-mode=append
#SBATCH --output=/runs/tiny-test-slurm/stages/curate/attempts/1/%j_0_log.out
#SBATCH --partition=cpu
#SBATCH --requeue
#SBATCH --signal=B:USR2@30
#SBATCH --time=30
#SBATCH --wckey=''

# setup
export GLOO_SOCKET_IFNAME=lo
export OMP_NUM_THREADS=1
export PYTHONPATH=/runs/tiny-test-slurm/code${PYTHONPATH:+:$PYTHONPATH}
export PYTHONSAFEPATH=1

# command
export SUBMITIT_EXECUTOR=slurm
exec /venv/bin/python -u -m submitit.core._submit /runs/tiny-test-slurm/stages/curate/attempts/1

#### curate: recovery job ####
#!/bin/bash

# Parameters
#SBATCH --chdir=/runs/tiny-test-slurm/code
#SBATCH --comment=run=tiny-test-slurm,attempt=1
#SBATCH --cpus-per-task=1
#SBATCH --dependency='afterany:<curate>'
#SBATCH --job-name=tiny-test-slurm.curate.recovery_job
#SBATCH --mem=1G
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --open-mode=append
#SBATCH --output=/dev/null
#SBATCH --partition=cpu
#SBATCH --requeue
#SBATCH --signal=USR2@90
#SBATCH --time=10
#SBATCH --wckey=''

# setup
export GLOO_SOCKET_IFNAME=lo
export OMP_NUM_THREADS=1
export PYTHONPATH=/runs/tiny-test-slurm/code${PYTHONPATH:+:$PYTHONPATH}
export PYTHONSAFEPATH=1

# command
export SUBMITIT_EXECUTOR=slurm
exec /venv/bin/python -u -m submitit.core._submit /runs/tiny-test-slurm/stages/curate/attempts/1/recovery_job

#### tokenize: script 1 of 1, 9 tasks ####
#!/bin/bash

# Parameters
#SBATCH --array=0-8%9
#SBATCH --chdir=/runs/tiny-test-slurm/code
#SBATCH --comment=run=tiny-test-slurm,attempt=1
#SBATCH --cpus-per-task=1
#SBATCH --dependency='afterok:<curate>'
#SBATCH --job-name=tiny-test-slurm.tokenize
#SBATCH --mem=3G
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --open-mode=append
#SBATCH --output=/runs/tiny-test-slurm/stages/tokenize/attempts/1/%A_%a_0_log.out
#SBATCH --partition=cpu
#SBATCH --requeue
#SBATCH --signal=B:USR2@30
#SBATCH --time=30
#SBATCH --wckey=''

# setup
export GLOO_SOCKET_IFNAME=lo
export OMP_NUM_THREADS=1
export PYTHONPATH=/runs/tiny-test-slurm/code${PYTHONPATH:+:$PYTHONPATH}
export PYTHONSAFEPATH=1

# command
export SUBMITIT_EXECUTOR=slurm
exec /venv/bin/python -u -m submitit.core._submit /runs/tiny-test-slurm/stages/tokenize/attempts/1

#### tokenize: recovery job ####
#!/bin/bash

# Parameters
#SBATCH --chdir=/runs/tiny-test-slurm/code
#SBATCH --comment=run=tiny-test-slurm,attempt=1
#SBATCH --cpus-per-task=1
#SBATCH --dependency='afterany:<tokenize>'
#SBATCH --job-name=tiny-test-slurm.tokenize.recovery_job
#SBATCH --mem=1G
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --open-mode=append
#SBATCH --output=/dev/null
#SBATCH --partition=cpu
#SBATCH --requeue
#SBATCH --signal=USR2@90
#SBATCH --time=10
#SBATCH --wckey=''

# setup
export GLOO_SOCKET_IFNAME=lo
export OMP_NUM_THREADS=1
export PYTHONPATH=/runs/tiny-test-slurm/code${PYTHONPATH:+:$PYTHONPATH}
export PYTHONSAFEPATH=1

# command
export SUBMITIT_EXECUTOR=slurm
exec /venv/bin/python -u -m submitit.core._submit /runs/tiny-test-slurm/stages/tokenize/attempts/1/recovery_job

#### index: script 1 of 1, 1 task ####
#!/bin/bash

# Parameters
#SBATCH --chdir=/runs/tiny-test-slurm/code
#SBATCH --comment=run=tiny-test-slurm,attempt=1
#SBATCH --cpus-per-task=2
#SBATCH --dependency='afterok:<tokenize>'
#SBATCH --job-name=tiny-test-slurm.index
#SBATCH --mem=3G
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --open-mode=append
#SBATCH --output=/runs/tiny-test-slurm/stages/index/attempts/1/%j_0_log.out
#SBATCH --partition=cpu
#SBATCH --requeue
#SBATCH --signal=B:USR2@30
#SBATCH --time=60
#SBATCH --wckey=''

# setup
export GLOO_SOCKET_IFNAME=lo
export OMP_NUM_THREADS=1
export PYTHONPATH=/runs/tiny-test-slurm/code${PYTHONPATH:+:$PYTHONPATH}
export PYTHONSAFEPATH=1

# command
export SUBMITIT_EXECUTOR=slurm
exec /venv/bin/python -u -m submitit.core._submit /runs/tiny-test-slurm/stages/index/attempts/1

#### index: recovery job ####
#!/bin/bash

# Parameters
#SBATCH --chdir=/runs/tiny-test-slurm/code
#SBATCH --comment=run=tiny-test-slurm,attempt=1
#SBATCH --cpus-per-task=1
#SBATCH --dependency='afterany:<index>'
#SBATCH --job-name=tiny-test-slurm.index.recovery_job
#SBATCH --mem=1G
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --open-mode=append
#SBATCH --output=/dev/null
#SBATCH --partition=cpu
#SBATCH --requeue
#SBATCH --signal=USR2@90
#SBATCH --time=10
#SBATCH --wckey=''

# setup
export GLOO_SOCKET_IFNAME=lo
export OMP_NUM_THREADS=1
export PYTHONPATH=/runs/tiny-test-slurm/code${PYTHONPATH:+:$PYTHONPATH}
export PYTHONSAFEPATH=1

# command
export SUBMITIT_EXECUTOR=slurm
exec /venv/bin/python -u -m submitit.core._submit /runs/tiny-test-slurm/stages/index/attempts/1/recovery_job

#### pretrain: script 1 of 1, 1 task ####
#!/bin/bash

# Parameters
#SBATCH --chdir=/runs/tiny-test-slurm/code
#SBATCH --comment=run=tiny-test-slurm,attempt=1
#SBATCH --cpus-per-task=2
#SBATCH --dependency='afterok:<tokenize>:<index>'
#SBATCH --gpus-per-node=2
#SBATCH --job-name=tiny-test-slurm.pretrain
#SBATCH --mem=3G
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=2
#SBATCH --open-mode=append
#SBATCH --output=/runs/tiny-test-slurm/stages/pretrain/attempts/1/%j_0_log.out
#SBATCH --partition=low
#SBATCH --requeue
#SBATCH --signal=B:USR2@60
#SBATCH --time=60
#SBATCH --wckey=''

# setup
export GLOO_SOCKET_IFNAME=lo
export OMP_NUM_THREADS=1
export PYTHONPATH=/runs/tiny-test-slurm/code${PYTHONPATH:+:$PYTHONPATH}
export PYTHONSAFEPATH=1

# command
export SUBMITIT_EXECUTOR=slurm
exec /venv/bin/python -u -m submitit.core._submit /runs/tiny-test-slurm/stages/pretrain/attempts/1

#### pretrain: recovery job ####
#!/bin/bash

# Parameters
#SBATCH --chdir=/runs/tiny-test-slurm/code
#SBATCH --comment=run=tiny-test-slurm,attempt=1
#SBATCH --cpus-per-task=1
#SBATCH --dependency='afterany:<pretrain>'
#SBATCH --job-name=tiny-test-slurm.pretrain.recovery_job
#SBATCH --mem=1G
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --open-mode=append
#SBATCH --output=/dev/null
#SBATCH --partition=cpu
#SBATCH --requeue
#SBATCH --signal=USR2@90
#SBATCH --time=10
#SBATCH --wckey=''

# setup
export GLOO_SOCKET_IFNAME=lo
export OMP_NUM_THREADS=1
export PYTHONPATH=/runs/tiny-test-slurm/code${PYTHONPATH:+:$PYTHONPATH}
export PYTHONSAFEPATH=1

# command
export SUBMITIT_EXECUTOR=slurm
exec /venv/bin/python -u -m submitit.core._submit /runs/tiny-test-slurm/stages/pretrain/attempts/1/recovery_job

#### evaluate: script 1 of 1, 4 tasks ####
#!/bin/bash

# Parameters
#SBATCH --array=0-3%4
#SBATCH --chdir=/runs/tiny-test-slurm/code
#SBATCH --comment=run=tiny-test-slurm,attempt=1
#SBATCH --cpus-per-task=1
#SBATCH --dependency='afterok:<pretrain>'
#SBATCH --job-name=tiny-test-slurm.evaluate
#SBATCH --mem=1G
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --open-mode=append
#SBATCH --output=/runs/tiny-test-slurm/stages/evaluate/attempts/1/%A_%a_0_log.out
#SBATCH --partition=cpu
#SBATCH --requeue
#SBATCH --signal=B:USR2@30
#SBATCH --time=30
#SBATCH --wckey=''

# setup
export GLOO_SOCKET_IFNAME=lo
export OMP_NUM_THREADS=1
export PYTHONPATH=/runs/tiny-test-slurm/code${PYTHONPATH:+:$PYTHONPATH}
export PYTHONSAFEPATH=1

# command
export SUBMITIT_EXECUTOR=slurm
exec /venv/bin/python -u -m submitit.core._submit /runs/tiny-test-slurm/stages/evaluate/attempts/1

#### evaluate: recovery job ####
#!/bin/bash

# Parameters
#SBATCH --chdir=/runs/tiny-test-slurm/code
#SBATCH --comment=run=tiny-test-slurm,attempt=1
#SBATCH --cpus-per-task=1
#SBATCH --dependency='afterany:<evaluate>'
#SBATCH --job-name=tiny-test-slurm.evaluate.recovery_job
#SBATCH --mem=1G
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --open-mode=append
#SBATCH --output=/dev/null
#SBATCH --partition=cpu
#SBATCH --requeue
#SBATCH --signal=USR2@90
#SBATCH --time=10
#SBATCH --wckey=''

# setup
export GLOO_SOCKET_IFNAME=lo
export OMP_NUM_THREADS=1
export PYTHONPATH=/runs/tiny-test-slurm/code${PYTHONPATH:+:$PYTHONPATH}
export PYTHONSAFEPATH=1

# command
export SUBMITIT_EXECUTOR=slurm
exec /venv/bin/python -u -m submitit.core._submit /runs/tiny-test-slurm/stages/evaluate/attempts/1/recovery_job

#### export: script 1 of 1, 1 task ####
#!/bin/bash

# Parameters
#SBATCH --chdir=/runs/tiny-test-slurm/code
#SBATCH --comment=run=tiny-test-slurm,attempt=1
#SBATCH --cpus-per-task=4
#SBATCH --dependency='afterok:<pretrain>:<evaluate>'
#SBATCH --job-name=tiny-test-slurm.export
#SBATCH --mem=3G
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --open-mode=append
#SBATCH --output=/runs/tiny-test-slurm/stages/export/attempts/1/%j_0_log.out
#SBATCH --partition=cpu
#SBATCH --requeue
#SBATCH --signal=B:USR2@30
#SBATCH --time=240
#SBATCH --wckey=''

# setup
export GLOO_SOCKET_IFNAME=lo
export OMP_NUM_THREADS=1
export PYTHONPATH=/runs/tiny-test-slurm/code${PYTHONPATH:+:$PYTHONPATH}
export PYTHONSAFEPATH=1

# command
export SUBMITIT_EXECUTOR=slurm
exec /venv/bin/python -u -m submitit.core._submit /runs/tiny-test-slurm/stages/export/attempts/1

#### export: recovery job ####
#!/bin/bash

# Parameters
#SBATCH --chdir=/runs/tiny-test-slurm/code
#SBATCH --comment=run=tiny-test-slurm,attempt=1
#SBATCH --cpus-per-task=1
#SBATCH --dependency='afterany:<export>'
#SBATCH --job-name=tiny-test-slurm.export.recovery_job
#SBATCH --mem=1G
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --open-mode=append
#SBATCH --output=/dev/null
#SBATCH --partition=cpu
#SBATCH --requeue
#SBATCH --signal=USR2@90
#SBATCH --time=10
#SBATCH --wckey=''

# setup
export GLOO_SOCKET_IFNAME=lo
export OMP_NUM_THREADS=1
export PYTHONPATH=/runs/tiny-test-slurm/code${PYTHONPATH:+:$PYTHONPATH}
export PYTHONSAFEPATH=1

# command
export SUBMITIT_EXECUTOR=slurm
exec /venv/bin/python -u -m submitit.core._submit /runs/tiny-test-slurm/stages/export/attempts/1/recovery_job
