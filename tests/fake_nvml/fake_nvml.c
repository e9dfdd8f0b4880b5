/* A stand-in for libnvidia-ml.so.1 that answers from a file of readings.
 *
 * FAKE_NVML names the file, read anew at every nvmlInitWithFlags and while events are waited for; "%s" in the name
 * stands for the node, by SLURMD_NODENAME. Lines are "key = value"; "#" starts a
 * comment. A key about GPUs is looked for as "gpu.<index>.<key>" first, then as "gpu.<key>", then the
 * healthy default given at the call below. Errors are NVML return codes:
 *     init = 18                             nvmlInitWithFlags fails
 *     gpu.2.error = 15                      every call on GPU 2 fails
 *     gpu.error.nvmlDeviceGetEccMode = 3    one call fails on every GPU
 *     gpu.field.230.error = 3               one entry of nvmlDeviceGetFieldValues fails
 *     gpu.2.hang.nvmlDeviceGetPowerUsage = 60   one call does not return for so many seconds
 *     event.0 = 3 79                        the first event of every set: XID 79 on GPU 3; event.1 follows
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { SUCCESS = 0, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, INSUFFICIENT_SIZE = 7, DRIVER_NOT_LOADED = 9,
       TIMEOUT = 10, VERSION_MISMATCH = 25 };
enum { MAX_LINES = 512, MAX_GPUS = 64 };

typedef struct { int index; } Device;
typedef struct { unsigned field, scope; long long timestamp, latency; unsigned type; int result;
                 union { double d; unsigned u; unsigned long long ull; } value; } FieldValue;
typedef struct { unsigned pid; unsigned long long memory; unsigned gpu_instance, compute_instance; } Process;
typedef struct { unsigned version, sensor; int celsius; } Temperature;
typedef struct { unsigned version; unsigned long long counts[11]; unsigned threshold_exceeded; } Sram;
typedef struct { unsigned version; unsigned char cluster[16]; int status; unsigned clique, state, mask;
                 unsigned char summary; } Fabric;
typedef struct { unsigned version, flag; } Unrepairable;
typedef struct { unsigned long long total, free, used; } Memory;
typedef struct { unsigned gpu, memory; } Utilization;
typedef struct { int delivered; unsigned long long registered; } EventSet;
typedef struct { Device *device; unsigned long long type, data; unsigned gpu_instance, compute_instance; } Event;

static struct { char key[128], value[256]; } lines[MAX_LINES];
static int line_count;
static Device devices[MAX_GPUS];

static pthread_mutex_t reading = PTHREAD_MUTEX_INITIALIZER;

static void name_file(char path[4096]) {
    const char *pattern = getenv("FAKE_NVML"), *node = getenv("SLURMD_NODENAME"), *gap;
    if (pattern && (gap = strstr(pattern, "%s")))
        snprintf(path, 4096, "%.*s%s%s", (int)(gap - pattern), pattern, node ? node : "", gap + 2);
    else
        snprintf(path, 4096, "%s", pattern ? pattern : "");
}

static void load(void) {
    char path[4096] = "";
    FILE *file;
    name_file(path);
    file = fopen(path, "r");
    char text[512];
    pthread_mutex_lock(&reading);
    line_count = 0;
    while (file && line_count < MAX_LINES && fgets(text, sizeof text, file))
        if (sscanf(text, " %127[^= #] = %255[^\n]", lines[line_count].key, lines[line_count].value) == 2)
            line_count++;
    pthread_mutex_unlock(&reading);
    if (file) fclose(file);
}

/* A driver blocks until there is an event: what waits here must not cost what no driver costs. */
static int has_changed(struct stat *before) {
    char path[4096] = "";
    struct stat now;
    name_file(path);
    if (stat(path, &now)) memset(&now, 0, sizeof now);
    int is_same = now.st_ino == before->st_ino && now.st_mtim.tv_sec == before->st_mtim.tv_sec
        && now.st_mtim.tv_nsec == before->st_mtim.tv_nsec && now.st_size == before->st_size;
    *before = now;
    return !is_same;
}

/* Values live in one buffer a thread, since another thread may load the file anew. */
static const char *find(const char *key) {
    static _Thread_local char value[256];
    const char *found = NULL;
    pthread_mutex_lock(&reading);
    for (int i = 0; i < line_count && !found; i++)
        if (!strcmp(lines[i].key, key)) found = strcpy(value, lines[i].value);
    pthread_mutex_unlock(&reading);
    return found;
}

static const char *text_of(int gpu, const char *name, const char *otherwise) {
    char key[160];
    const char *value;
    snprintf(key, sizeof key, "gpu.%d.%s", gpu, name);
    if ((value = find(key))) return value;
    snprintf(key, sizeof key, "gpu.%s", name);
    return (value = find(key)) ? value : otherwise;
}

static long long number(int gpu, const char *name, long long otherwise) {
    const char *value = text_of(gpu, name, NULL);
    return value ? strtoll(value, NULL, 0) : otherwise;
}

static int failure(Device *device, const char *call) {
    char key[128];
    long long seconds;
    snprintf(key, sizeof key, "hang.%s", call);
    if ((seconds = number(device->index, key, 0))) sleep((unsigned)seconds);
    snprintf(key, sizeof key, "error.%s", call);
    return (int)number(device->index, key, number(device->index, "error", SUCCESS));
}

#define GUARD(device) do { int code = failure(device, __func__); if (code) return code; } while (0)

static int copy(char *to, unsigned size, const char *from) {
    snprintf(to, size, "%s", from);
    return SUCCESS;
}

/* System */
int nvmlInitWithFlags(unsigned flags) {
    (void)flags;
    load();
    return find("init") ? atoi(find("init")) : SUCCESS;
}
int nvmlShutdown(void) { return SUCCESS; }
const char *nvmlErrorString(int code) { (void)code; return "an error the stand-in was told to give"; }
int nvmlSystemGetDriverVersion(char *to, unsigned size) {
    return copy(to, size, find("driver") ? find("driver") : "570.133.20");
}
int nvmlSystemGetNVMLVersion(char *to, unsigned size) { return copy(to, size, "12.570.133.20"); }
int nvmlDeviceGetCount_v2(unsigned *count) {
    *count = find("count") ? (unsigned)atoi(find("count")) : 0;
    return SUCCESS;
}
int nvmlDeviceGetHandleByIndex_v2(unsigned index, Device **device) {
    if (index >= MAX_GPUS) return INVALID_ARGUMENT;
    devices[index].index = (int)index;
    *device = &devices[index];
    GUARD(*device);
    return SUCCESS;
}

/* Identity */
int nvmlDeviceGetUUID(Device *device, char *to, unsigned size) {
    char uuid[64];
    GUARD(device);
    snprintf(uuid, sizeof uuid, "GPU-%08d-0000-0000-0000-000000000000", device->index);
    return copy(to, size, text_of(device->index, "uuid", uuid));
}
int nvmlDeviceGetSerial(Device *device, char *to, unsigned size) {
    GUARD(device);
    return copy(to, size, text_of(device->index, "serial", "1650923000001"));
}
int nvmlDeviceGetName(Device *device, char *to, unsigned size) {
    GUARD(device);
    return copy(to, size, text_of(device->index, "name", "NVIDIA A100-SXM4-80GB"));
}

/* Memory */
int nvmlDeviceGetTotalEccErrors(Device *device, unsigned kind, unsigned counter, unsigned long long *count) {
    GUARD(device);
    const char *volatile_key = kind == 0 ? "ecc.corrected" : "ecc.volatile";
    *count = (unsigned long long)number(device->index, counter ? "ecc.aggregate" : volatile_key, 0);
    return SUCCESS;
}
int nvmlDeviceGetSramEccErrorStatus(Device *device, Sram *status) {
    GUARD(device);
    memset(status->counts, 0, sizeof status->counts);
    status->counts[0] = (unsigned long long)number(device->index, "sram.aggregate_parity", 0);
    status->counts[1] = (unsigned long long)number(device->index, "sram.aggregate_secded", 0);
    status->threshold_exceeded = (unsigned)number(device->index, "sram.threshold", 0);
    return SUCCESS;
}
int nvmlDeviceGetRemappedRows(Device *device, unsigned *corrected, unsigned *uncorrected, unsigned *pending,
                              unsigned *failed) {
    GUARD(device);
    *corrected = (unsigned)number(device->index, "remap.corrected", 0);
    *uncorrected = (unsigned)number(device->index, "remap.uncorrected", 0);
    *pending = (unsigned)number(device->index, "remap.pending", 0);
    *failed = (unsigned)number(device->index, "remap.failed", 0);
    return SUCCESS;
}
int nvmlDeviceGetUnrepairableMemoryFlag_v1(Device *device, Unrepairable *status) {
    GUARD(device);
    status->flag = (unsigned)number(device->index, "unrepairable", 0);
    return SUCCESS;
}
int nvmlDeviceGetRetiredPages(Device *device, unsigned cause, unsigned *count, unsigned long long *pages) {
    unsigned have;
    GUARD(device);
    have = (unsigned)number(device->index, cause ? "retired.double" : "retired.single", 0);
    if (*count < have || (!pages && have)) { *count = have; return INSUFFICIENT_SIZE; }
    for (unsigned i = 0; i < have; i++) pages[i] = 4096ULL * (i + 1);
    *count = have;
    return SUCCESS;
}
int nvmlDeviceGetRetiredPagesPendingStatus(Device *device, unsigned *pending) {
    GUARD(device);
    *pending = (unsigned)number(device->index, "retired.pending", 0);
    return SUCCESS;
}

/* Clocks, heat, power */
int nvmlDeviceGetCurrentClocksEventReasons(Device *device, unsigned long long *reasons) {
    GUARD(device);
    *reasons = (unsigned long long)number(device->index, "clocks", 1);
    return SUCCESS;
}
int nvmlDeviceGetCurrentClocksThrottleReasons(Device *device, unsigned long long *reasons) {
    GUARD(device);
    *reasons = (unsigned long long)number(device->index, "clocks", 1);
    return SUCCESS;
}
int nvmlDeviceGetTemperatureV(Device *device, Temperature *temperature) {
    GUARD(device);
    if (temperature->version != 0x100000C) return VERSION_MISMATCH;
    temperature->celsius = (int)number(device->index, "temperature", 40);
    return SUCCESS;
}
int nvmlDeviceGetTemperature(Device *device, unsigned sensor, unsigned *celsius) {
    GUARD(device);
    if (sensor) return INVALID_ARGUMENT;
    *celsius = (unsigned)number(device->index, "temperature", 40);
    return SUCCESS;
}
int nvmlDeviceGetTemperatureThreshold(Device *device, unsigned kind, unsigned *celsius) {
    static const char *names[] = {"limit.shutdown", "limit.slowdown", "limit.memory", "limit.gpu"};
    static const int usual[] = {92, 89, 95, 85};
    GUARD(device);
    if (kind > 3) return INVALID_ARGUMENT;
    *celsius = (unsigned)number(device->index, names[kind], usual[kind]);
    return *celsius ? SUCCESS : NOT_SUPPORTED;
}
int nvmlDeviceGetEnforcedPowerLimit(Device *device, unsigned *milliwatts) {
    GUARD(device);
    *milliwatts = (unsigned)number(device->index, "power.limit", 400000);
    return SUCCESS;
}
int nvmlDeviceGetPowerManagementDefaultLimit(Device *device, unsigned *milliwatts) {
    GUARD(device);
    *milliwatts = (unsigned)number(device->index, "power.default", 400000);
    return SUCCESS;
}
int nvmlDeviceGetPowerUsage(Device *device, unsigned *milliwatts) {
    GUARD(device);
    *milliwatts = (unsigned)number(device->index, "power", 350000);
    return SUCCESS;
}
int nvmlDeviceGetTotalEnergyConsumption(Device *device, unsigned long long *millijoules) {
    GUARD(device);
    *millijoules = (unsigned long long)number(device->index, "energy", 1000000);
    return SUCCESS;
}
int nvmlDeviceGetUtilizationRates(Device *device, Utilization *rates) {
    GUARD(device);
    rates->gpu = (unsigned)number(device->index, "utilisation", 98);
    rates->memory = (unsigned)number(device->index, "utilisation.memory", 60);
    return SUCCESS;
}
int nvmlDeviceGetMemoryInfo(Device *device, Memory *memory) {
    GUARD(device);
    memory->total = 80ULL << 30;
    memory->used = (unsigned long long)number(device->index, "memory.used", 60LL << 30);
    memory->free = memory->total - memory->used;
    return SUCCESS;
}
int nvmlDeviceGetClockInfo(Device *device, unsigned kind, unsigned *mhz) {
    GUARD(device);
    *mhz = (unsigned)(kind == 2 ? number(device->index, "clock.memory", 1593) : number(device->index, "clock.sm", 1400));
    return SUCCESS;
}
int nvmlDeviceGetMaxClockInfo(Device *device, unsigned kind, unsigned *mhz) {
    GUARD(device);
    (void)kind;
    *mhz = (unsigned)number(device->index, "clock.sm.max", 1410);
    return SUCCESS;
}
int nvmlDeviceGetFieldValues(Device *device, int count, FieldValue *values) {
    GUARD(device);
    for (int i = 0; i < count; i++) {
        char key[64];
        snprintf(key, sizeof key, "field.%u", values[i].field);
        memset(&values[i].value, 0xFF, sizeof values[i].value); /* the driver leaves the rest of the union as it was */
        values[i].type = 1;
        values[i].value.u = (unsigned)number(device->index, key, values[i].field == 82 ? 45 : 0);
        strcat(key, ".error");
        /* an A100 counts the errors of each link in other fields */
        values[i].result = (int)number(device->index, key, values[i].field >= 161 && values[i].field <= 163
                                                               ? NOT_SUPPORTED : SUCCESS);
    }
    return SUCCESS;
}

/* Links */
int nvmlDeviceGetCurrPcieLinkWidth(Device *device, unsigned *lanes) {
    GUARD(device);
    *lanes = (unsigned)number(device->index, "pcie.width", 16);
    return SUCCESS;
}
int nvmlDeviceGetMaxPcieLinkWidth(Device *device, unsigned *lanes) {
    GUARD(device);
    *lanes = (unsigned)number(device->index, "pcie.max", 16);
    return SUCCESS;
}
int nvmlDeviceGetCurrPcieLinkGeneration(Device *device, unsigned *generation) {
    GUARD(device);
    *generation = (unsigned)number(device->index, "pcie.generation", 4);
    return SUCCESS;
}
int nvmlDeviceGetMaxPcieLinkGeneration(Device *device, unsigned *generation) {
    GUARD(device);
    *generation = (unsigned)number(device->index, "pcie.generation.max", 4);
    return SUCCESS;
}
int nvmlDeviceGetPcieReplayCounter(Device *device, unsigned *replays) {
    GUARD(device);
    *replays = (unsigned)number(device->index, "pcie.replays", 0);
    return SUCCESS;
}
int nvmlDeviceGetNvLinkState(Device *device, unsigned link, unsigned *active) {
    GUARD(device);
    if (link >= number(device->index, "nvlink.links", 12)) return NOT_SUPPORTED;
    *active = link < number(device->index, "nvlink.active", 12);
    return SUCCESS;
}
int nvmlDeviceGetGpuFabricInfoV(Device *device, Fabric *info) {
    unsigned form = info->version >> 24;
    GUARD(device);
    if (form > number(device->index, "fabric.newest_form", 3)) return VERSION_MISMATCH;
    info->state = (unsigned)number(device->index, "fabric.state", 0);
    info->status = (int)number(device->index, "fabric.status", 0);
    if (form >= 3) info->summary = (unsigned char)number(device->index, "fabric.summary", 1);
    return SUCCESS;
}

/* Processes: "123:1024,456:0" is pid and MiB */
static int processes(Device *device, const char *key, unsigned *count, Process *found) {
    const char *text = text_of(device->index, key, "");
    unsigned have = 0, pid, memory;
    for (const char *at = text; at && sscanf(at, "%u:%u", &pid, &memory) == 2; have++) {
        if (found && have < *count) {
            memset(&found[have], 0, sizeof *found);
            found[have].pid = pid;
            found[have].memory = memory * (1ULL << 20);
        }
        at = strchr(at, ',');
        at = at ? at + 1 : NULL;
    }
    int fits = *count >= have && (found || !have);
    *count = have;
    return fits ? SUCCESS : INSUFFICIENT_SIZE;
}
int nvmlDeviceGetComputeRunningProcesses_v3(Device *device, unsigned *count, Process *found) {
    GUARD(device);
    return processes(device, "processes", count, found);
}
int nvmlDeviceGetMPSComputeRunningProcesses_v3(Device *device, unsigned *count, Process *found) {
    GUARD(device);
    return processes(device, "mps_processes", count, found);
}

/* Modes */
int nvmlDeviceGetEccMode(Device *device, unsigned *current, unsigned *pending) {
    GUARD(device);
    *current = (unsigned)number(device->index, "ecc.mode", 1);
    *pending = (unsigned)number(device->index, "ecc.pending", *current);
    return SUCCESS;
}
int nvmlDeviceGetMigMode(Device *device, unsigned *current, unsigned *pending) {
    GUARD(device);
    *current = *pending = (unsigned)number(device->index, "mig", 0);
    return SUCCESS;
}
int nvmlDeviceGetPersistenceMode(Device *device, unsigned *on) {
    GUARD(device);
    *on = (unsigned)number(device->index, "persistence", 1);
    return SUCCESS;
}

/* Events: every set gets each event of the GPUs registered with it once, in the order of their numbers */
int nvmlEventSetCreate(EventSet **set) {
    *set = calloc(1, sizeof **set);
    return SUCCESS;
}
int nvmlEventSetFree(EventSet *set) {
    free(set);
    return SUCCESS;
}
int nvmlDeviceGetSupportedEventTypes(Device *device, unsigned long long *types) {
    GUARD(device);
    *types = (unsigned long long)number(device->index, "event.types", 0xB);
    return SUCCESS;
}
int nvmlDeviceRegisterEvents(Device *device, unsigned long long types, EventSet *set) {
    GUARD(device);
    if (types & ~(unsigned long long)number(device->index, "event.types", 0xB)) return NOT_SUPPORTED;
    set->registered |= 1ULL << device->index;
    return SUCCESS;
}
int nvmlEventSetWait_v2(EventSet *set, Event *event, unsigned milliseconds) {
    struct stat before = {0};
    for (unsigned waited = 0;; waited += 50) {
        char key[32];
        const char *text;
        int gpu, code;
        if (has_changed(&before)) load();
        if (find("event.error")) return atoi(find("event.error"));
        snprintf(key, sizeof key, "event.%d", set->delivered);
        if ((text = find(key)) && sscanf(text, "%d %d", &gpu, &code) == 2) {
            set->delivered++;
            if (!(set->registered >> gpu & 1)) continue;
            memset(event, 0, sizeof *event);
            event->device = &devices[gpu];
            event->type = 8;
            event->data = (unsigned long long)code;
            return SUCCESS;
        }
        if (waited >= milliseconds) return TIMEOUT;
        usleep(50000);
    }
}
