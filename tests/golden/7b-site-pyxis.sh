#### curate: script 1 of 1, 1 task ####
#!/bin/bash

# Parameters
#SBATCH --account=med42-cpu
#SBATCH --chdir=/runs/7b-site-pyxis/code
#SBATCH --comment=run=7b-site-pyxis,attempt=1
#SBATCH --cpus-per-task=2
#SBATCH --exclusive=user
#SBATCH --job-name=7b-site-pyxis.curate
#SBATCH --mem=8G
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --open-mode=append
#SBATCH --output=/runs/7b-site-pyxis/stages/curate/attempts/1/%j_0_log.out
#SBATCH --partition=cpu
#SBATCH --qos=normal
#SBATCH --requeue
#SBATCH --reservation=med
#SBATCH --signal=B:USR2@30
#SBATCH --time=240
#SBATCH --wckey=''

# setup
module load gcc/13.2
module load cuda/12.8
export NCCL_DEBUG=WARN
export TITLE='it'"'"'s "quoted" $(date) `date` $HOME \n'
export PYTHONPATH=/runs/7b-site-pyxis/code${PYTHONPATH:+:$PYTHONPATH}
export PYTHONSAFEPATH=1

# command
export SUBMITIT_EXECUTOR=slurm
exec /sw/venv/bin/python -u -m submitit.core._submit /runs/7b-site-pyxis/stages/curate/attempts/1

#### curate: recovery job ####
#!/bin/bash

# Parameters
#SBATCH --account=med42-cpu
#SBATCH --chdir=/runs/7b-site-pyxis/code
#SBATCH --comment=run=7b-site-pyxis,attempt=1
#SBATCH --cpus-per-task=1
#SBATCH --dependency='afterany:<curate>'
#SBATCH --exclusive=user
#SBATCH --job-name=7b-site-pyxis.curate.recovery_job
#SBATCH --mem=1G
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --open-mode=append
#SBATCH --output=/dev/null
#SBATCH --partition=cpu
#SBATCH --qos=normal
#SBATCH --requeue
#SBATCH --reservation=med
#SBATCH --signal=USR2@90
#SBATCH --time=10
#SBATCH --wckey=''

# setup
module load gcc/13.2
module load cuda/12.8
export NCCL_DEBUG=WARN
export TITLE='it'"'"'s "quoted" $(date) `date` $HOME \n'
export PYTHONPATH=/runs/7b-site-pyxis/code${PYTHONPATH:+:$PYTHONPATH}
export PYTHONSAFEPATH=1

# command
export SUBMITIT_EXECUTOR=slurm
exec /sw/venv/bin/python -u -m submitit.core._submit /runs/7b-site-pyxis/stages/curate/attempts/1/recovery_job

#### tokenize: script 1 of 2, 101 tasks ####
#!/bin/bash

# Parameters
#SBATCH --account=med42-cpu
#SBATCH --array=0-100%64
#SBATCH --chdir=/runs/7b-site-pyxis/code
#SBATCH --comment=run=7b-site-pyxis,attempt=1
#SBATCH --cpus-per-task=1
#SBATCH --dependency='afterok:<curate>'
#SBATCH --exclusive=user
#SBATCH --job-name=7b-site-pyxis.tokenize
#SBATCH --mem=4G
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --open-mode=append
#SBATCH --output=/runs/7b-site-pyxis/stages/tokenize/attempts/1/%A_%a_0_log.out
#SBATCH --partition=cpu
#SBATCH --qos=normal
#SBATCH --requeue
#SBATCH --reservation=med
#SBATCH --signal=B:USR2@30
#SBATCH --time=240
#SBATCH --wckey=''

# setup
module load gcc/13.2
module load cuda/12.8
export NCCL_DEBUG=WARN
export TITLE='it'"'"'s "quoted" $(date) `date` $HOME \n'
export PYTHONPATH=/runs/7b-site-pyxis/code${PYTHONPATH:+:$PYTHONPATH}
export PYTHONSAFEPATH=1

# command
export SUBMITIT_EXECUTOR=slurm
exec /sw/venv/bin/python -u -m submitit.core._submit /runs/7b-site-pyxis/stages/tokenize/attempts/1

#### tokenize: script 2 of 2, 3 tasks ####
#!/bin/bash

# Parameters
#SBATCH --account=med42-cpu
#SBATCH --array=0-2%3
#SBATCH --chdir=/runs/7b-site-pyxis/code
#SBATCH --comment=run=7b-site-pyxis,attempt=1
#SBATCH --cpus-per-task=1
#SBATCH --dependency='afterok:<curate>'
#SBATCH --exclusive=user
#SBATCH --job-name=7b-site-pyxis.tokenize
#SBATCH --mem=4G
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --open-mode=append
#SBATCH --output=/runs/7b-site-pyxis/stages/tokenize/attempts/1/%A_%a_0_log.out
#SBATCH --partition=cpu
#SBATCH --qos=normal
#SBATCH --requeue
#SBATCH --reservation=med
#SBATCH --signal=B:USR2@30
#SBATCH --time=240
#SBATCH --wckey=''

# setup
module load gcc/13.2
module load cuda/12.8
export NCCL_DEBUG=WARN
export TITLE='it'"'"'s "quoted" $(date) `date` $HOME \n'
export PYTHONPATH=/runs/7b-site-pyxis/code${PYTHONPATH:+:$PYTHONPATH}
export PYTHONSAFEPATH=1

# command
export SUBMITIT_EXECUTOR=slurm
exec /sw/venv/bin/python -u -m submitit.core._submit /runs/7b-site-pyxis/stages/tokenize/attempts/1

#### tokenize: recovery job ####
#!/bin/bash

# Parameters
#SBATCH --account=med42-cpu
#SBATCH --chdir=/runs/7b-site-pyxis/code
#SBATCH --comment=run=7b-site-pyxis,attempt=1
#SBATCH --cpus-per-task=1
#SBATCH --dependency='afterany:<tokenize>'
#SBATCH --exclusive=user
#SBATCH --job-name=7b-site-pyxis.tokenize.recovery_job
#SBATCH --mem=1G
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --open-mode=append
#SBATCH --output=/dev/null
#SBATCH --partition=cpu
#SBATCH --qos=normal
#SBATCH --requeue
#SBATCH --reservation=med
#SBATCH --signal=USR2@90
#SBATCH --time=10
#SBATCH --wckey=''

# setup
module load gcc/13.2
module load cuda/12.8
export NCCL_DEBUG=WARN
export TITLE='it'"'"'s "quoted" $(date) `date` $HOME \n'
export PYTHONPATH=/runs/7b-site-pyxis/code${PYTHONPATH:+:$PYTHONPATH}
export PYTHONSAFEPATH=1

# command
export SUBMITIT_EXECUTOR=slurm
exec /sw/venv/bin/python -u -m submitit.core._submit /runs/7b-site-pyxis/stages/tokenize/attempts/1/recovery_job

#### index: script 1 of 1, 1 task ####
#!/bin/bash

# Parameters
#SBATCH --account=med42-cpu
#SBATCH --chdir=/runs/7b-site-pyxis/code
#SBATCH --comment=run=7b-site-pyxis,attempt=1
#SBATCH --cpus-per-task=2
#SBATCH --dependency='afterok:<tokenize>'
#SBATCH --exclusive=user
#SBATCH --job-name=7b-site-pyxis.index
#SBATCH --mem=8G
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --open-mode=append
#SBATCH --output=/runs/7b-site-pyxis/stages/index/attempts/1/%j_0_log.out
#SBATCH --partition=cpu
#SBATCH --qos=normal
#SBATCH --requeue
#SBATCH --reservation=med
#SBATCH --signal=B:USR2@30
#SBATCH --time=60
#SBATCH --wckey=''

# setup
module load gcc/13.2
module load cuda/12.8
export NCCL_DEBUG=WARN
export TITLE='it'"'"'s "quoted" $(date) `date` $HOME \n'
export PYTHONPATH=/runs/7b-site-pyxis/code${PYTHONPATH:+:$PYTHONPATH}
export PYTHONSAFEPATH=1

# command
export SUBMITIT_EXECUTOR=slurm
exec /sw/venv/bin/python -u -m submitit.core._submit /runs/7b-site-pyxis/stages/index/attempts/1

#### index: recovery job ####
#!/bin/bash

# Parameters
#SBATCH --account=med42-cpu
#SBATCH --chdir=/runs/7b-site-pyxis/code
#SBATCH --comment=run=7b-site-pyxis,attempt=1
#SBATCH --cpus-per-task=1
#SBATCH --dependency='afterany:<index>'
#SBATCH --exclusive=user
#SBATCH --job-name=7b-site-pyxis.index.recovery_job
#SBATCH --mem=1G
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --open-mode=append
#SBATCH --output=/dev/null
#SBATCH --partition=cpu
#SBATCH --qos=normal
#SBATCH --requeue
#SBATCH --reservation=med
#SBATCH --signal=USR2@90
#SBATCH --time=10
#SBATCH --wckey=''

# setup
module load gcc/13.2
module load cuda/12.8
export NCCL_DEBUG=WARN
export TITLE='it'"'"'s "quoted" $(date) `date` $HOME \n'
export PYTHONPATH=/runs/7b-site-pyxis/code${PYTHONPATH:+:$PYTHONPATH}
export PYTHONSAFEPATH=1

# command
export SUBMITIT_EXECUTOR=slurm
exec /sw/venv/bin/python -u -m submitit.core._submit /runs/7b-site-pyxis/stages/index/attempts/1/recovery_job

#### convert: script 1 of 1, 1 task ####
#!/bin/bash

# Parameters
#SBATCH --account=med42-cpu
#SBATCH --chdir=/runs/7b-site-pyxis/code
#SBATCH --comment=run=7b-site-pyxis,attempt=1
#SBATCH --cpus-per-task=8
#SBATCH --exclusive=user
#SBATCH --job-name=7b-site-pyxis.convert
#SBATCH --mem=32G
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --open-mode=append
#SBATCH --output=/runs/7b-site-pyxis/stages/convert/attempts/1/%j_0_log.out
#SBATCH --partition=cpu
#SBATCH --qos=normal
#SBATCH --requeue
#SBATCH --reservation=med
#SBATCH --signal=B:USR2@30
#SBATCH --time=240
#SBATCH --wckey=''

# setup
module load gcc/13.2
module load cuda/12.8
export NCCL_DEBUG=WARN
export TITLE='it'"'"'s "quoted" $(date) `date` $HOME \n'
export PYTHONPATH=/runs/7b-site-pyxis/code${PYTHONPATH:+:$PYTHONPATH}
export PYTHONSAFEPATH=1

# command
export SUBMITIT_EXECUTOR=slurm
exec /sw/venv/bin/python -u -m submitit.core._submit /runs/7b-site-pyxis/stages/convert/attempts/1

#### convert: recovery job ####
#!/bin/bash

# Parameters
#SBATCH --account=med42-cpu
#SBATCH --chdir=/runs/7b-site-pyxis/code
#SBATCH --comment=run=7b-site-pyxis,attempt=1
#SBATCH --cpus-per-task=1
#SBATCH --dependency='afterany:<convert>'
#SBATCH --exclusive=user
#SBATCH --job-name=7b-site-pyxis.convert.recovery_job
#SBATCH --mem=1G
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --open-mode=append
#SBATCH --output=/dev/null
#SBATCH --partition=cpu
#SBATCH --qos=normal
#SBATCH --requeue
#SBATCH --reservation=med
#SBATCH --signal=USR2@90
#SBATCH --time=10
#SBATCH --wckey=''

# setup
module load gcc/13.2
module load cuda/12.8
export NCCL_DEBUG=WARN
export TITLE='it'"'"'s "quoted" $(date) `date` $HOME \n'
export PYTHONPATH=/runs/7b-site-pyxis/code${PYTHONPATH:+:$PYTHONPATH}
export PYTHONSAFEPATH=1

# command
export SUBMITIT_EXECUTOR=slurm
exec /sw/venv/bin/python -u -m submitit.core._submit /runs/7b-site-pyxis/stages/convert/attempts/1/recovery_job

#### pretrain: script 1 of 1, 1 task ####
#!/bin/bash

# Parameters
#SBATCH --account=med42
#SBATCH --chdir=/runs/7b-site-pyxis/code
#SBATCH --comment=run=7b-site-pyxis,attempt=1
#SBATCH --cpus-per-task=16
#SBATCH --dependency='afterok:<tokenize>:<index>:<convert>'
#SBATCH --exclusive=user
#SBATCH --gres=gpu:h100:4
#SBATCH --job-name=7b-site-pyxis.pretrain
#SBATCH --mem=500G
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=4
#SBATCH --open-mode=append
#SBATCH --output=/runs/7b-site-pyxis/stages/pretrain/attempts/1/%j_0_log.out
#SBATCH --partition=gpu
#SBATCH --qos=long
#SBATCH --requeue
#SBATCH --reservation=med
#SBATCH --signal=B:USR2@600
#SBATCH --time=1440
#SBATCH --wckey=''

# setup
module load gcc/13.2
module load cuda/12.8
export NCCL_DEBUG=WARN
export TITLE='it'"'"'s "quoted" $(date) `date` $HOME \n'
export PYTHONPATH=/runs/7b-site-pyxis/code${PYTHONPATH:+:$PYTHONPATH}
export PYTHONSAFEPATH=1

# command
export SUBMITIT_EXECUTOR=slurm
exec /sw/venv/bin/python -u -m submitit.core._submit /runs/7b-site-pyxis/stages/pretrain/attempts/1

#### pretrain: recovery job ####
#!/bin/bash

# Parameters
#SBATCH --account=med42-cpu
#SBATCH --chdir=/runs/7b-site-pyxis/code
#SBATCH --comment=run=7b-site-pyxis,attempt=1
#SBATCH --cpus-per-task=1
#SBATCH --dependency='afterany:<pretrain>'
#SBATCH --exclusive=user
#SBATCH --job-name=7b-site-pyxis.pretrain.recovery_job
#SBATCH --mem=1G
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --open-mode=append
#SBATCH --output=/dev/null
#SBATCH --partition=cpu
#SBATCH --qos=normal
#SBATCH --requeue
#SBATCH --reservation=med
#SBATCH --signal=USR2@90
#SBATCH --time=10
#SBATCH --wckey=''

# setup
module load gcc/13.2
module load cuda/12.8
export NCCL_DEBUG=WARN
export TITLE='it'"'"'s "quoted" $(date) `date` $HOME \n'
export PYTHONPATH=/runs/7b-site-pyxis/code${PYTHONPATH:+:$PYTHONPATH}
export PYTHONSAFEPATH=1

# command
export SUBMITIT_EXECUTOR=slurm
exec /sw/venv/bin/python -u -m submitit.core._submit /runs/7b-site-pyxis/stages/pretrain/attempts/1/recovery_job

#### evaluate: script 1 of 1, 4 tasks ####
#!/bin/bash

# Parameters
#SBATCH --account=med42
#SBATCH --array=0-3%4
#SBATCH --chdir=/runs/7b-site-pyxis/code
#SBATCH --comment=run=7b-site-pyxis,attempt=1
#SBATCH --cpus-per-task=16
#SBATCH --dependency='afterok:<pretrain>'
#SBATCH --exclusive=user
#SBATCH --gres=gpu:h100:1
#SBATCH --job-name=7b-site-pyxis.evaluate
#SBATCH --mem=125G
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --open-mode=append
#SBATCH --output=/runs/7b-site-pyxis/stages/evaluate/attempts/1/%A_%a_0_log.out
#SBATCH --partition=gpu
#SBATCH --qos=long
#SBATCH --requeue
#SBATCH --reservation=med
#SBATCH --signal=B:USR2@30
#SBATCH --time=240
#SBATCH --wckey=''

# setup
module load gcc/13.2
module load cuda/12.8
export NCCL_DEBUG=WARN
export TITLE='it'"'"'s "quoted" $(date) `date` $HOME \n'
export PYTHONPATH=/runs/7b-site-pyxis/code${PYTHONPATH:+:$PYTHONPATH}
export PYTHONSAFEPATH=1

# command
export SUBMITIT_EXECUTOR=slurm
exec /sw/venv/bin/python -u -m submitit.core._submit /runs/7b-site-pyxis/stages/evaluate/attempts/1

#### evaluate: recovery job ####
#!/bin/bash

# Parameters
#SBATCH --account=med42-cpu
#SBATCH --chdir=/runs/7b-site-pyxis/code
#SBATCH --comment=run=7b-site-pyxis,attempt=1
#SBATCH --cpus-per-task=1
#SBATCH --dependency='afterany:<evaluate>'
#SBATCH --exclusive=user
#SBATCH --job-name=7b-site-pyxis.evaluate.recovery_job
#SBATCH --mem=1G
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --open-mode=append
#SBATCH --output=/dev/null
#SBATCH --partition=cpu
#SBATCH --qos=normal
#SBATCH --requeue
#SBATCH --reservation=med
#SBATCH --signal=USR2@90
#SBATCH --time=10
#SBATCH --wckey=''

# setup
module load gcc/13.2
module load cuda/12.8
export NCCL_DEBUG=WARN
export TITLE='it'"'"'s "quoted" $(date) `date` $HOME \n'
export PYTHONPATH=/runs/7b-site-pyxis/code${PYTHONPATH:+:$PYTHONPATH}
export PYTHONSAFEPATH=1

# command
export SUBMITIT_EXECUTOR=slurm
exec /sw/venv/bin/python -u -m submitit.core._submit /runs/7b-site-pyxis/stages/evaluate/attempts/1/recovery_job

#### export: script 1 of 1, 1 task ####
#!/bin/bash

# Parameters
#SBATCH --account=med42-cpu
#SBATCH --chdir=/runs/7b-site-pyxis/code
#SBATCH --comment=run=7b-site-pyxis,attempt=1
#SBATCH --cpus-per-task=4
#SBATCH --dependency='afterok:<pretrain>:<evaluate>'
#SBATCH --exclusive=user
#SBATCH --job-name=7b-site-pyxis.export
#SBATCH --mem=16G
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --open-mode=append
#SBATCH --output=/runs/7b-site-pyxis/stages/export/attempts/1/%j_0_log.out
#SBATCH --partition=cpu
#SBATCH --qos=normal
#SBATCH --requeue
#SBATCH --reservation=med
#SBATCH --signal=B:USR2@30
#SBATCH --time=240
#SBATCH --wckey=''

# setup
module load gcc/13.2
module load cuda/12.8
export NCCL_DEBUG=WARN
export TITLE='it'"'"'s "quoted" $(date) `date` $HOME \n'
export PYTHONPATH=/runs/7b-site-pyxis/code${PYTHONPATH:+:$PYTHONPATH}
export PYTHONSAFEPATH=1

# command
export SUBMITIT_EXECUTOR=slurm
exec /sw/venv/bin/python -u -m submitit.core._submit /runs/7b-site-pyxis/stages/export/attempts/1

#### export: recovery job ####
#!/bin/bash

# Parameters
#SBATCH --account=med42-cpu
#SBATCH --chdir=/runs/7b-site-pyxis/code
#SBATCH --comment=run=7b-site-pyxis,attempt=1
#SBATCH --cpus-per-task=1
#SBATCH --dependency='afterany:<export>'
#SBATCH --exclusive=user
#SBATCH --job-name=7b-site-pyxis.export.recovery_job
#SBATCH --mem=1G
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --open-mode=append
#SBATCH --output=/dev/null
#SBATCH --partition=cpu
#SBATCH --qos=normal
#SBATCH --requeue
#SBATCH --reservation=med
#SBATCH --signal=USR2@90
#SBATCH --time=10
#SBATCH --wckey=''

# setup
module load gcc/13.2
module load cuda/12.8
export NCCL_DEBUG=WARN
export TITLE='it'"'"'s "quoted" $(date) `date` $HOME \n'
export PYTHONPATH=/runs/7b-site-pyxis/code${PYTHONPATH:+:$PYTHONPATH}
export PYTHONSAFEPATH=1

# command
export SUBMITIT_EXECUTOR=slurm
exec /sw/venv/bin/python -u -m submitit.core._submit /runs/7b-site-pyxis/stages/export/attempts/1/recovery_job
