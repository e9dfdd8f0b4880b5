CREATE USER 'slurm'@'127.0.0.1' IDENTIFIED BY '$password';
GRANT ALL ON slurm_accounting.* TO 'slurm'@'127.0.0.1';
