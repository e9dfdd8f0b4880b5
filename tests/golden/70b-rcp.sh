#### curate: script 1 of 1, 1 task ####
#!/bin/bash

# Parameters
#SBATCH --account='<account>'
#SBATCH --chdir=/runs/70b-rcp/code
#SBATCH --comment=run=70b-rcp,attempt=1
#SBATCH --cpus-per-task=2
#SBATCH --job-name=70b-rcp.curate
#SBATCH --mem=8G
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --open-mode=append
#SBATCH --output=/runs/70b-rcp/stages/curate/attempts/1/%j_0_log.out
#SBATCH --partition='<partition>'
#SBATCH --requeue
#SBATCH --signal=B:USR2@30
#SBATCH --time=240
#SBATCH --wckey=''

# setup
export PYTHONPATH=/runs/70b-rcp/code${PYTHONPATH:+:$PYTHONPATH}
export PYTHONSAFEPATH=1

# command
export SUBMITIT_EXECUTOR=slurm
exec /venv/bin/python -u -m submitit.core._submit /runs/70b-rcp/stages/curate/attempts/1

#### curate: recovery job ####
#!/bin/bash

# Parameters
#SBATCH --account='<account>'
#SBATCH --chdir=/runs/70b-rcp/code
#SBATCH --comment=run=70b-rcp,attempt=1
#SBATCH --cpus-per-task=1
#SBATCH --dependency='afterany:<curate>'
#SBATCH --job-name=70b-rcp.curate.recovery_job
#SBATCH --mem=1G
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --open-mode=append
#SBATCH --output=/dev/null
#SBATCH --partition='<partition>'
#SBATCH --requeue
#SBATCH --signal=USR2@90
#SBATCH --time=10
#SBATCH --wckey=''

# setup
export PYTHONPATH=/runs/70b-rcp/code${PYTHONPATH:+:$PYTHONPATH}
export PYTHONSAFEPATH=1

# command
export SUBMITIT_EXECUTOR=slurm
exec /venv/bin/python -u -m submitit.core._submit /runs/70b-rcp/stages/curate/attempts/1/recovery_job

#### tokenize: script 1 of 1, 9 tasks ####
#!/bin/bash

# Parameters
#SBATCH --account='<account>'
#SBATCH --array=0-8%9
#SBATCH --chdir=/runs/70b-rcp/code
#SBATCH --comment=run=70b-rcp,attempt=1
#SBATCH --cpus-per-task=1
#SBATCH --dependency='afterok:<curate>'
#SBATCH --job-name=70b-rcp.tokenize
#SBATCH --mem=4G
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --open-mode=append
#SBATCH --output=/runs/70b-rcp/stages/tokenize/attempts/1/%A_%a_0_log.out
#SBATCH --partition='<partition>'
#SBATCH --requeue
#SBATCH --signal=B:USR2@30
#SBATCH --time=240
#SBATCH --wckey=''

# setup
export PYTHONPATH=/runs/70b-rcp/code${PYTHONPATH:+:$PYTHONPATH}
export PYTHONSAFEPATH=1

# command
export SUBMITIT_EXECUTOR=slurm
exec /venv/bin/python -u -m submitit.core._submit /runs/70b-rcp/stages/tokenize/attempts/1

#### tokenize: recovery job ####
#!/bin/bash

# Parameters
#SBATCH --account='<account>'
#SBATCH --chdir=/runs/70b-rcp/code
#SBATCH --comment=run=70b-rcp,attempt=1
#SBATCH --cpus-per-task=1
#SBATCH --dependency='afterany:<tokenize>'
#SBATCH --job-name=70b-rcp.tokenize.recovery_job
#SBATCH --mem=1G
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --open-mode=append
#SBATCH --output=/dev/null
#SBATCH --partition='<partition>'
#SBATCH --requeue
#SBATCH --signal=USR2@90
#SBATCH --time=10
#SBATCH --wckey=''

# setup
export PYTHONPATH=/runs/70b-rcp/code${PYTHONPATH:+:$PYTHONPATH}
export PYTHONSAFEPATH=1

# command
export SUBMITIT_EXECUTOR=slurm
exec /venv/bin/python -u -m submitit.core._submit /runs/70b-rcp/stages/tokenize/attempts/1/recovery_job

#### index: script 1 of 1, 1 task ####
#!/bin/bash

# Parameters
#SBATCH --account='<account>'
#SBATCH --chdir=/runs/70b-rcp/code
#SBATCH --comment=run=70b-rcp,attempt=1
#SBATCH --cpus-per-task=2
#SBATCH --dependency='afterok:<tokenize>'
#SBATCH --job-name=70b-rcp.index
#SBATCH --mem=8G
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --open-mode=append
#SBATCH --output=/runs/70b-rcp/stages/index/attempts/1/%j_0_log.out
#SBATCH --partition='<partition>'
#SBATCH --requeue
#SBATCH --signal=B:USR2@30
#SBATCH --time=60
#SBATCH --wckey=''

# setup
export PYTHONPATH=/runs/70b-rcp/code${PYTHONPATH:+:$PYTHONPATH}
export PYTHONSAFEPATH=1

# command
export SUBMITIT_EXECUTOR=slurm
exec /venv/bin/python -u -m submitit.core._submit /runs/70b-rcp/stages/index/attempts/1

#### index: recovery job ####
#!/bin/bash

# Parameters
#SBATCH --account='<account>'
#SBATCH --chdir=/runs/70b-rcp/code
#SBATCH --comment=run=70b-rcp,attempt=1
#SBATCH --cpus-per-task=1
#SBATCH --dependency='afterany:<index>'
#SBATCH --job-name=70b-rcp.index.recovery_job
#SBATCH --mem=1G
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --open-mode=append
#SBATCH --output=/dev/null
#SBATCH --partition='<partition>'
#SBATCH --requeue
#SBATCH --signal=USR2@90
#SBATCH --time=10
#SBATCH --wckey=''

# setup
export PYTHONPATH=/runs/70b-rcp/code${PYTHONPATH:+:$PYTHONPATH}
export PYTHONSAFEPATH=1

# command
export SUBMITIT_EXECUTOR=slurm
exec /venv/bin/python -u -m submitit.core._submit /runs/70b-rcp/stages/index/attempts/1/recovery_job

#### convert: script 1 of 1, 1 task ####
#!/bin/bash

# Parameters
#SBATCH --account='<account>'
#SBATCH --chdir=/runs/70b-rcp/code
#SBATCH --comment=run=70b-rcp,attempt=1
#SBATCH --cpus-per-task=8
#SBATCH --job-name=70b-rcp.convert
#SBATCH --mem=32G
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --open-mode=append
#SBATCH --output=/runs/70b-rcp/stages/convert/attempts/1/%j_0_log.out
#SBATCH --partition='<partition>'
#SBATCH --requeue
#SBATCH --signal=B:USR2@30
#SBATCH --time=240
#SBATCH --wckey=''

# setup
export PYTHONPATH=/runs/70b-rcp/code${PYTHONPATH:+:$PYTHONPATH}
export PYTHONSAFEPATH=1

# command
export SUBMITIT_EXECUTOR=slurm
exec /venv/bin/python -u -m submitit.core._submit /runs/70b-rcp/stages/convert/attempts/1

#### convert: recovery job ####
#!/bin/bash

# Parameters
#SBATCH --account='<account>'
#SBATCH --chdir=/runs/70b-rcp/code
#SBATCH --comment=run=70b-rcp,attempt=1
#SBATCH --cpus-per-task=1
#SBATCH --dependency='afterany:<convert>'
#SBATCH --job-name=70b-rcp.convert.recovery_job
#SBATCH --mem=1G
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --open-mode=append
#SBATCH --output=/dev/null
#SBATCH --partition='<partition>'
#SBATCH --requeue
#SBATCH --signal=USR2@90
#SBATCH --time=10
#SBATCH --wckey=''

# setup
export PYTHONPATH=/runs/70b-rcp/code${PYTHONPATH:+:$PYTHONPATH}
export PYTHONSAFEPATH=1

# command
export SUBMITIT_EXECUTOR=slurm
exec /venv/bin/python -u -m submitit.core._submit /runs/70b-rcp/stages/convert/attempts/1/recovery_job

#### pretrain: script 1 of 1, 1 task ####
#!/bin/bash

# Parameters
#SBATCH --account='<account>'
#SBATCH --chdir=/runs/70b-rcp/code
#SBATCH --comment=run=70b-rcp,attempt=1
#SBATCH --cpus-per-task=8
#SBATCH --dependency='afterok:<tokenize>:<index>:<convert>'
#SBATCH --gpus-per-node=8
#SBATCH --job-name=70b-rcp.pretrain
#SBATCH --mem=480G
#SBATCH --nodes=16
#SBATCH --ntasks-per-node=8
#SBATCH --open-mode=append
#SBATCH --output=/runs/70b-rcp/stages/pretrain/attempts/1/%j_0_log.out
#SBATCH --partition='<partition>'
#SBATCH --requeue
#SBATCH --signal=B:USR2@860
#SBATCH --time=1440
#SBATCH --wckey=''

# setup
export PYTHONPATH=/runs/70b-rcp/code${PYTHONPATH:+:$PYTHONPATH}
export PYTHONSAFEPATH=1

# command
export SUBMITIT_EXECUTOR=slurm
exec /venv/bin/python -u -m submitit.core._submit /runs/70b-rcp/stages/pretrain/attempts/1

#### pretrain: recovery job ####
#!/bin/bash

# Parameters
#SBATCH --account='<account>'
#SBATCH --chdir=/runs/70b-rcp/code
#SBATCH --comment=run=70b-rcp,attempt=1
#SBATCH --cpus-per-task=1
#SBATCH --dependency='afterany:<pretrain>'
#SBATCH --job-name=70b-rcp.pretrain.recovery_job
#SBATCH --mem=1G
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --open-mode=append
#SBATCH --output=/dev/null
#SBATCH --partition='<partition>'
#SBATCH --requeue
#SBATCH --signal=USR2@90
#SBATCH --time=10
#SBATCH --wckey=''

# setup
export PYTHONPATH=/runs/70b-rcp/code${PYTHONPATH:+:$PYTHONPATH}
export PYTHONSAFEPATH=1

# command
export SUBMITIT_EXECUTOR=slurm
exec /venv/bin/python -u -m submitit.core._submit /runs/70b-rcp/stages/pretrain/attempts/1/recovery_job

#### evaluate: script 1 of 1, 4 tasks ####
#!/bin/bash

# Parameters
#SBATCH --account='<account>'
#SBATCH --array=0-3%4
#SBATCH --chdir=/runs/70b-rcp/code
#SBATCH --comment=run=70b-rcp,attempt=1
#SBATCH --cpus-per-task=8
#SBATCH --dependency='afterok:<pretrain>'
#SBATCH --gpus-per-node=4
#SBATCH --job-name=70b-rcp.evaluate
#SBATCH --mem=240G
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=4
#SBATCH --open-mode=append
#SBATCH --output=/runs/70b-rcp/stages/evaluate/attempts/1/%A_%a_0_log.out
#SBATCH --partition='<partition>'
#SBATCH --requeue
#SBATCH --signal=B:USR2@30
#SBATCH --time=240
#SBATCH --wckey=''

# setup
export PYTHONPATH=/runs/70b-rcp/code${PYTHONPATH:+:$PYTHONPATH}
export PYTHONSAFEPATH=1

# command
export SUBMITIT_EXECUTOR=slurm
exec /venv/bin/python -u -m submitit.core._submit /runs/70b-rcp/stages/evaluate/attempts/1

#### evaluate: recovery job ####
#!/bin/bash

# Parameters
#SBATCH --account='<account>'
#SBATCH --chdir=/runs/70b-rcp/code
#SBATCH --comment=run=70b-rcp,attempt=1
#SBATCH --cpus-per-task=1
#SBATCH --dependency='afterany:<evaluate>'
#SBATCH --job-name=70b-rcp.evaluate.recovery_job
#SBATCH --mem=1G
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --open-mode=append
#SBATCH --output=/dev/null
#SBATCH --partition='<partition>'
#SBATCH --requeue
#SBATCH --signal=USR2@90
#SBATCH --time=10
#SBATCH --wckey=''

# setup
export PYTHONPATH=/runs/70b-rcp/code${PYTHONPATH:+:$PYTHONPATH}
export PYTHONSAFEPATH=1

# command
export SUBMITIT_EXECUTOR=slurm
exec /venv/bin/python -u -m submitit.core._submit /runs/70b-rcp/stages/evaluate/attempts/1/recovery_job

#### export: script 1 of 1, 1 task ####
#!/bin/bash

# Parameters
#SBATCH --account='<account>'
#SBATCH --chdir=/runs/70b-rcp/code
#SBATCH --comment=run=70b-rcp,attempt=1
#SBATCH --cpus-per-task=4
#SBATCH --dependency='afterok:<pretrain>:<evaluate>'
#SBATCH --job-name=70b-rcp.export
#SBATCH --mem=16G
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --open-mode=append
#SBATCH --output=/runs/70b-rcp/stages/export/attempts/1/%j_0_log.out
#SBATCH --partition='<partition>'
#SBATCH --requeue
#SBATCH --signal=B:USR2@30
#SBATCH --time=240
#SBATCH --wckey=''

# setup
export PYTHONPATH=/runs/70b-rcp/code${PYTHONPATH:+:$PYTHONPATH}
export PYTHONSAFEPATH=1

# command
export SUBMITIT_EXECUTOR=slurm
exec /venv/bin/python -u -m submitit.core._submit /runs/70b-rcp/stages/export/attempts/1

#### export: recovery job ####
#!/bin/bash

# Parameters
#SBATCH --account='<account>'
#SBATCH --chdir=/runs/70b-rcp/code
#SBATCH --comment=run=70b-rcp,attempt=1
#SBATCH --cpus-per-task=1
#SBATCH --dependency='afterany:<export>'
#SBATCH --job-name=70b-rcp.export.recovery_job
#SBATCH --mem=1G
#SBATCH --nodes=1
#SBATCH --ntasks-per-node=1
#SBATCH --open-mode=append
#SBATCH --output=/dev/null
#SBATCH --partition='<partition>'
#SBATCH --requeue
#SBATCH --signal=USR2@90
#SBATCH --time=10
#SBATCH --wckey=''

# setup
export PYTHONPATH=/runs/70b-rcp/code${PYTHONPATH:+:$PYTHONPATH}
export PYTHONSAFEPATH=1

# command
export SUBMITIT_EXECUTOR=slurm
exec /venv/bin/python -u -m submitit.core._submit /runs/70b-rcp/stages/export/attempts/1/recovery_job
