#### curate: script 1 of 1, 1 task ####
#!/bin/bash

# Parameters
#SBATCH --chdir=/runs/tiny-site-apptainer/code
#SBATCH --comment=run=tiny-site-apptainer,attempt=1
#SBATCH --cpus-per-task=2
#SBATCH --job-name=tiny-site-apptainer.curate
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --open-mode=append
#SBATCH --output=/runs/tiny-site-apptainer/stages/curate/attempts/1/%j_0_log.out
#SBATCH --partition=batch
#SBATCH --requeue
#SBATCH --signal=B:USR2@30
#SBATCH --time=240
#SBATCH --wckey=''

# setup
export PYTHONPATH=/runs/tiny-site-apptainer/code${PYTHONPATH:+:$PYTHONPATH}
export PYTHONSAFEPATH=1

# command
export SUBMITIT_EXECUTOR=slurm
exec /sw/venv/bin/python -u -m submitit.core._submit /runs/tiny-site-apptainer/stages/curate/attempts/1

#### curate: recovery job ####
#!/bin/bash

# Parameters
#SBATCH --chdir=/runs/tiny-site-apptainer/code
#SBATCH --comment=run=tiny-site-apptainer,attempt=1
#SBATCH --cpus-per-task=1
#SBATCH --dependency='afterany:<curate>'
#SBATCH --job-name=tiny-site-apptainer.curate.recovery_job
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --open-mode=append
#SBATCH --output=/dev/null
#SBATCH --partition=batch
#SBATCH --requeue
#SBATCH --signal=USR2@90
#SBATCH --time=10
#SBATCH --wckey=''

# setup
export PYTHONPATH=/runs/tiny-site-apptainer/code${PYTHONPATH:+:$PYTHONPATH}
export PYTHONSAFEPATH=1

# command
export SUBMITIT_EXECUTOR=slurm
exec /sw/venv/bin/python -u -m submitit.core._submit /runs/tiny-site-apptainer/stages/curate/attempts/1/recovery_job

#### tokenize: script 1 of 1, 9 tasks ####
#!/bin/bash

# Parameters
#SBATCH --array=0-8%9
#SBATCH --chdir=/runs/tiny-site-apptainer/code
#SBATCH --comment=run=tiny-site-apptainer,attempt=1
#SBATCH --cpus-per-task=1
#SBATCH --dependency='afterok:<curate>'
#SBATCH --job-name=tiny-site-apptainer.tokenize
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --open-mode=append
#SBATCH --output=/runs/tiny-site-apptainer/stages/tokenize/attempts/1/%A_%a_0_log.out
#SBATCH --partition=batch
#SBATCH --requeue
#SBATCH --signal=B:USR2@30
#SBATCH --time=240
#SBATCH --wckey=''

# setup
export PYTHONPATH=/runs/tiny-site-apptainer/code${PYTHONPATH:+:$PYTHONPATH}
export PYTHONSAFEPATH=1

# command
export SUBMITIT_EXECUTOR=slurm
exec /sw/venv/bin/python -u -m submitit.core._submit /runs/tiny-site-apptainer/stages/tokenize/attempts/1

#### tokenize: recovery job ####
#!/bin/bash

# Parameters
#SBATCH --chdir=/runs/tiny-site-apptainer/code
#SBATCH --comment=run=tiny-site-apptainer,attempt=1
#SBATCH --cpus-per-task=1
#SBATCH --dependency='afterany:<tokenize>'
#SBATCH --job-name=tiny-site-apptainer.tokenize.recovery_job
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --open-mode=append
#SBATCH --output=/dev/null
#SBATCH --partition=batch
#SBATCH --requeue
#SBATCH --signal=USR2@90
#SBATCH --time=10
#SBATCH --wckey=''

# setup
export PYTHONPATH=/runs/tiny-site-apptainer/code${PYTHONPATH:+:$PYTHONPATH}
export PYTHONSAFEPATH=1

# command
export SUBMITIT_EXECUTOR=slurm
exec /sw/venv/bin/python -u -m submitit.core._submit /runs/tiny-site-apptainer/stages/tokenize/attempts/1/recovery_job

#### index: script 1 of 1, 1 task ####
#!/bin/bash

# Parameters
#SBATCH --chdir=/runs/tiny-site-apptainer/code
#SBATCH --comment=run=tiny-site-apptainer,attempt=1
#SBATCH --cpus-per-task=2
#SBATCH --dependency='afterok:<tokenize>'
#SBATCH --job-name=tiny-site-apptainer.index
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --open-mode=append
#SBATCH --output=/runs/tiny-site-apptainer/stages/index/attempts/1/%j_0_log.out
#SBATCH --partition=batch
#SBATCH --requeue
#SBATCH --signal=B:USR2@30
#SBATCH --time=60
#SBATCH --wckey=''

# setup
export PYTHONPATH=/runs/tiny-site-apptainer/code${PYTHONPATH:+:$PYTHONPATH}
export PYTHONSAFEPATH=1

# command
export SUBMITIT_EXECUTOR=slurm
exec /sw/venv/bin/python -u -m submitit.core._submit /runs/tiny-site-apptainer/stages/index/attempts/1

#### index: recovery job ####
#!/bin/bash

# Parameters
#SBATCH --chdir=/runs/tiny-site-apptainer/code
#SBATCH --comment=run=tiny-site-apptainer,attempt=1
#SBATCH --cpus-per-task=1
#SBATCH --dependency='afterany:<index>'
#SBATCH --job-name=tiny-site-apptainer.index.recovery_job
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --open-mode=append
#SBATCH --output=/dev/null
#SBATCH --partition=batch
#SBATCH --requeue
#SBATCH --signal=USR2@90
#SBATCH --time=10
#SBATCH --wckey=''

# setup
export PYTHONPATH=/runs/tiny-site-apptainer/code${PYTHONPATH:+:$PYTHONPATH}
export PYTHONSAFEPATH=1

# command
export SUBMITIT_EXECUTOR=slurm
exec /sw/venv/bin/python -u -m submitit.core._submit /runs/tiny-site-apptainer/stages/index/attempts/1/recovery_job

#### pretrain: script 1 of 1, 1 task ####
#!/bin/bash

# Parameters
#SBATCH --chdir=/runs/tiny-site-apptainer/code
#SBATCH --comment=run=tiny-site-apptainer,attempt=1
#SBATCH --cpus-per-task=16
#SBATCH --dependency='afterok:<tokenize>:<index>'
#SBATCH --gpus-per-node=2
#SBATCH --job-name=tiny-site-apptainer.pretrain
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=2
#SBATCH --open-mode=append
#SBATCH --output=/runs/tiny-site-apptainer/stages/pretrain/attempts/1/%j_0_log.out
#SBATCH --partition=batch
#SBATCH --requeue
#SBATCH --signal=B:USR2@91
#SBATCH --time=120
#SBATCH --wckey=''

# setup
export PYTHONPATH=/runs/tiny-site-apptainer/code${PYTHONPATH:+:$PYTHONPATH}
export PYTHONSAFEPATH=1

# command
export SUBMITIT_EXECUTOR=slurm
exec /sw/venv/bin/python -u -m submitit.core._submit /runs/tiny-site-apptainer/stages/pretrain/attempts/1

#### pretrain: recovery job ####
#!/bin/bash

# Parameters
#SBATCH --chdir=/runs/tiny-site-apptainer/code
#SBATCH --comment=run=tiny-site-apptainer,attempt=1
#SBATCH --cpus-per-task=1
#SBATCH --dependency='afterany:<pretrain>'
#SBATCH --job-name=tiny-site-apptainer.pretrain.recovery_job
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --open-mode=append
#SBATCH --output=/dev/null
#SBATCH --partition=batch
#SBATCH --requeue
#SBATCH --signal=USR2@90
#SBATCH --time=10
#SBATCH --wckey=''

# setup
export PYTHONPATH=/runs/tiny-site-apptainer/code${PYTHONPATH:+:$PYTHONPATH}
export PYTHONSAFEPATH=1

# command
export SUBMITIT_EXECUTOR=slurm
exec /sw/venv/bin/python -u -m submitit.core._submit /runs/tiny-site-apptainer/stages/pretrain/attempts/1/recovery_job

#### evaluate: script 1 of 1, 4 tasks ####
#!/bin/bash

# Parameters
#SBATCH --array=0-3%4
#SBATCH --chdir=/runs/tiny-site-apptainer/code
#SBATCH --comment=run=tiny-site-apptainer,attempt=1
#SBATCH --cpus-per-task=16
#SBATCH --dependency='afterok:<pretrain>'
#SBATCH --gpus-per-node=1
#SBATCH --job-name=tiny-site-apptainer.evaluate
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --open-mode=append
#SBATCH --output=/runs/tiny-site-apptainer/stages/evaluate/attempts/1/%A_%a_0_log.out
#SBATCH --partition=batch
#SBATCH --requeue
#SBATCH --signal=B:USR2@30
#SBATCH --time=240
#SBATCH --wckey=''

# setup
export PYTHONPATH=/runs/tiny-site-apptainer/code${PYTHONPATH:+:$PYTHONPATH}
export PYTHONSAFEPATH=1

# command
export SUBMITIT_EXECUTOR=slurm
exec /sw/venv/bin/python -u -m submitit.core._submit /runs/tiny-site-apptainer/stages/evaluate/attempts/1

#### evaluate: recovery job ####
#!/bin/bash

# Parameters
#SBATCH --chdir=/runs/tiny-site-apptainer/code
#SBATCH --comment=run=tiny-site-apptainer,attempt=1
#SBATCH --cpus-per-task=1
#SBATCH --dependency='afterany:<evaluate>'
#SBATCH --job-name=tiny-site-apptainer.evaluate.recovery_job
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --open-mode=append
#SBATCH --output=/dev/null
#SBATCH --partition=batch
#SBATCH --requeue
#SBATCH --signal=USR2@90
#SBATCH --time=10
#SBATCH --wckey=''

# setup
export PYTHONPATH=/runs/tiny-site-apptainer/code${PYTHONPATH:+:$PYTHONPATH}
export PYTHONSAFEPATH=1

# command
export SUBMITIT_EXECUTOR=slurm
exec /sw/venv/bin/python -u -m submitit.core._submit /runs/tiny-site-apptainer/stages/evaluate/attempts/1/recovery_job

#### export: script 1 of 1, 1 task ####
#!/bin/bash

# Parameters
#SBATCH --chdir=/runs/tiny-site-apptainer/code
#SBATCH --comment=run=tiny-site-apptainer,attempt=1
#SBATCH --cpus-per-task=4
#SBATCH --dependency='afterok:<pretrain>:<evaluate>'
#SBATCH --job-name=tiny-site-apptainer.export
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --open-mode=append
#SBATCH --output=/runs/tiny-site-apptainer/stages/export/attempts/1/%j_0_log.out
#SBATCH --partition=batch
#SBATCH --requeue
#SBATCH --signal=B:USR2@30
#SBATCH --time=240
#SBATCH --wckey=''

# setup
export PYTHONPATH=/runs/tiny-site-apptainer/code${PYTHONPATH:+:$PYTHONPATH}
export PYTHONSAFEPATH=1

# command
export SUBMITIT_EXECUTOR=slurm
exec /sw/venv/bin/python -u -m submitit.core._submit /runs/tiny-site-apptainer/stages/export/attempts/1

#### export: recovery job ####
#!/bin/bash

# Parameters
#SBATCH --chdir=/runs/tiny-site-apptainer/code
#SBATCH --comment=run=tiny-site-apptainer,attempt=1
#SBATCH --cpus-per-task=1
#SBATCH --dependency='afterany:<export>'
#SBATCH --job-name=tiny-site-apptainer.export.recovery_job
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --open-mode=append
#SBATCH --output=/dev/null
#SBATCH --partition=batch
#SBATCH --requeue
#SBATCH --signal=USR2@90
#SBATCH --time=10
#SBATCH --wckey=''

# setup
export PYTHONPATH=/runs/tiny-site-apptainer/code${PYTHONPATH:+:$PYTHONPATH}
export PYTHONSAFEPATH=1

# command
export SUBMITIT_EXECUTOR=slurm
exec /sw/venv/bin/python -u -m submitit.core._submit /runs/tiny-site-apptainer/stages/export/attempts/1/recovery_job
