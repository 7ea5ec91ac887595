package upgrade

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"os"
	"path/filepath"
	"time"

	"theseus/internal/vfs"
	"theseus/upgrade/plan"
)

// The files of a run's state directory.
const (
	planName    = "plan.json"
	journalName = "journal.jsonl"
	summaryName = "summary.json"
	lockName    = "lock"
)

// journalFormat is the version of the journal's records; docs/format/journal.md has them.
const journalFormat = 1

// maxRecordBytes bounds one line, so that a damaged file is not read into memory for ever.
const maxRecordBytes = 4 << 20

// reserveBytes are kept free ahead of the journal's end while a member is down, so that
// a full disk is met before it is stopped and not after.
const reserveBytes = 256 << 10

// recordKind is what one line of the journal says.
type recordKind string

const (
	recBegin  recordKind = "begin"  // first line: the plan's hash, and who was broken from the start
	recResume recordKind = "resume" // apply or rollback was run again
	recIntent recordKind = "intent" // the step is about to be done
	recDone   recordKind = "done"   // it was
	recFailed recordKind = "failed" // it was not
	recBack   recordKind = "back"   // a way back is begun: its steps, and which steps each of them undoes
	recBacked recordKind = "backed" // the way back was walked to its end
	recYes    recordKind = "yes"    // the operator agreed to go beyond the point of the step
	recEnd    recordKind = "end"    // nothing is left to do
)

// record is one line of the journal.
type record struct {
	V      int                 `json:"v"`
	Seq    int                 `json:"seq"`
	Time   time.Time           `json:"time"`
	Kind   recordKind          `json:"kind"`
	Step   string              `json:"step,omitempty"`
	Text   string              `json:"text,omitempty"`
	Plan   string              `json:"plan,omitempty"`   // begin: sha256 of plan.json
	Broken []string            `json:"broken,omitempty"` // begin: members that were not healthy before anything was done
	Steps  []plan.Step         `json:"steps,omitempty"`  // back
	Undoes map[string][]string `json:"undoes,omitempty"` // back: step of the way back → the plan's steps that are not done any more
	Cause  string              `json:"cause,omitempty"`  // back: the failed step that it undoes; empty: the operator asked
}

var (
	crcTable = crc32.MakeTable(crc32.Castagnoli)
	crcKey   = []byte(`,"crc":"`)

	// recordHead begins every line and stands nowhere else, since texts escape quotes.
	recordHead = []byte(`{"v":`)
)

// encodeRecord makes one line: the record as JSON, its checksum as the last field.
func encodeRecord(r record) ([]byte, error) {
	b, err := json.Marshal(r)
	if err != nil {
		return nil, err
	}
	b = b[:len(b)-1]
	return fmt.Appendf(b, "%s%08x\"}\n", crcKey, crc32.Checksum(b, crcTable)), nil
}

// decodeRecord reads one line without its newline.
func decodeRecord(line []byte) (record, error) {
	var r record
	i := bytes.LastIndex(line, crcKey)
	if i < 0 || len(line) != i+len(crcKey)+10 || !bytes.HasSuffix(line, []byte(`"}`)) {
		return r, errors.New("no checksum")
	}
	if sum := fmt.Sprintf("%08x", crc32.Checksum(line[:i], crcTable)); sum != string(line[i+len(crcKey):len(line)-2]) {
		return r, errors.New("checksum differs")
	}
	if err := json.Unmarshal(append(bytes.Clone(line[:i]), '}'), &r); err != nil {
		return r, err
	}
	if r.V != journalFormat {
		return r, fmt.Errorf("format %d, this program knows %d", r.V, journalFormat)
	}
	return r, nil
}

// decodeJournal reads all records, and how many bytes they take. A last line that is
// torn, and the zeros reserved behind it, are what a crash leaves and are dropped; a
// damaged line before the last is an error.
func decodeJournal(data []byte) (recs []record, good int, err error) {
	data = bytes.TrimRight(data, "\x00")
	for rest := data; len(rest) > 0; {
		n := bytes.IndexByte(rest, '\n')
		if n < 0 {
			break // torn
		}
		r, err := decodeRecord(rest[:n])
		if err == nil && r.Seq != len(recs)+1 {
			err = fmt.Errorf("record %d where %d belongs", r.Seq, len(recs)+1)
		}
		if err != nil {
			if good+n+1 == len(data) && !bytes.Contains(rest[1:], recordHead) {
				break // the last line, torn in its middle; two lines in one were not torn but damaged
			}
			return nil, 0, fmt.Errorf("line %d: %w", len(recs)+1, err)
		}
		recs, good, rest = append(recs, r), good+n+1, rest[n+1:]
	}
	return recs, good, nil
}

// journal is the open journal of a run. Its lock is held until Close, so that no second
// run can act on the cluster at the same time. After an error it takes no more records:
// what was not written is not done.
type journal struct {
	fs   vfs.FS
	dir  string
	lock vfs.File
	file vfs.File // nil until begin
	recs []record
	end  int64 // of the good records
	size int64 // of the file, with what is reserved
	err  error
	hook func(what string) // tests: stands at every point where the program can be killed
}

// errBusy is returned when another run holds the state directory.
var errBusy = errors.New("another apply or rollback is running on this state directory: 'theseus upgrade status' shows it")

// openJournal takes the lock and reads what there is.
func openJournal(fs vfs.FS, dir string) (*journal, error) {
	if err := makeDir(fs, dir); err != nil {
		return nil, fmt.Errorf("state directory: %w", err)
	}
	lock, err := openJournalLock(fs, dir)
	if err != nil {
		return nil, err
	}
	j := &journal{fs: fs, dir: dir, lock: lock}
	if err := j.load(); err != nil {
		j.close()
		return nil, err
	}
	return j, nil
}

// makeDir makes a directory and the names above it durable, those that were not there.
func makeDir(fs vfs.FS, dir string) error {
	var parents []string
	for d := filepath.Clean(dir); ; d = filepath.Dir(d) {
		if _, err := fs.Stat(d); err == nil || filepath.Dir(d) == d {
			break
		}
		parents = append(parents, filepath.Dir(d))
	}
	if err := fs.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	for _, p := range parents {
		if err := fs.SyncDir(p); err != nil {
			return err
		}
	}
	return nil
}

// openJournalLock takes the lock of a state directory; it goes with Close.
func openJournalLock(fs vfs.FS, dir string) (vfs.File, error) {
	lock, err := fs.OpenFile(filepath.Join(dir, lockName), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("state directory: %w", err)
	}
	if err := fs.Lock(lock); err != nil {
		_ = lock.Close() // nothing was written
		if errors.Is(err, vfs.ErrLocked) {
			return nil, errBusy
		}
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	return lock, nil
}

func (j *journal) path(name string) string { return filepath.Join(j.dir, name) }

// load reads the journal that is there and cuts off what a crash has torn.
func (j *journal) load() error {
	recs, good, err := readJournal(j.fs, j.dir)
	if err != nil || recs == nil {
		return err
	}
	f, err := j.fs.OpenFile(j.path(journalName), os.O_RDWR, 0o600)
	if err != nil {
		return fmt.Errorf("open journal: %w", err)
	}
	j.file, j.recs, j.end, j.size = f, recs, good, good
	if err := f.Truncate(good); err != nil {
		return fmt.Errorf("cut the journal's torn end: %w", err)
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("sync journal: %w", err)
	}
	return nil
}

// readJournal reads the records without the lock; none means that there is no run.
func readJournal(fs vfs.FS, dir string) ([]record, int64, error) {
	f, err := fs.OpenFile(filepath.Join(dir, journalName), os.O_RDONLY, 0)
	if errors.Is(err, os.ErrNotExist) {
		return nil, 0, nil
	}
	if err != nil {
		return nil, 0, fmt.Errorf("open journal: %w", err)
	}
	defer func() { _ = f.Close() }() // only read
	data, err := io.ReadAll(io.LimitReader(f, 64*maxRecordBytes))
	if err != nil {
		return nil, 0, fmt.Errorf("read journal: %w", err)
	}
	recs, good, err := decodeJournal(data)
	if err != nil {
		return nil, 0, fmt.Errorf("journal %s: %w: it was damaged after it was written; find out by what before going on", filepath.Join(dir, journalName), err)
	}
	return recs, int64(good), nil
}

// begin writes the plan and the journal's first line. Both are durable when it returns.
func (j *journal) begin(p plan.Plan, broken []string) error {
	text, err := json.MarshalIndent(p, "", "  ")
	if err != nil {
		return err
	}
	text = append(text, '\n')
	if err := vfs.WriteFileAtomic(j.fs, j.path(planName), text, 0o600); err != nil {
		return fmt.Errorf("write plan: %w", err)
	}
	f, err := j.fs.OpenFile(j.path(journalName), os.O_CREATE|os.O_RDWR|os.O_TRUNC, 0o600)
	if err != nil {
		return fmt.Errorf("create journal: %w", err)
	}
	j.file, j.recs, j.end, j.size = f, nil, 0, 0
	if err := j.append(record{Kind: recBegin, Plan: planHash(text), Broken: broken}); err != nil {
		return err
	}
	return j.fs.SyncDir(j.dir)
}

func planHash(text []byte) string {
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:])
}

// plan reads the plan beside the journal and holds it against the first line.
func (j *journal) plan() (plan.Plan, error) { return readPlan(j.fs, j.dir, j.recs) }

func readPlan(fs vfs.FS, dir string, recs []record) (p plan.Plan, err error) {
	text, err := vfs.ReadFile(fs, filepath.Join(dir, planName))
	if err != nil {
		return p, fmt.Errorf("read plan: %w", err)
	}
	if len(recs) == 0 || recs[0].Kind != recBegin || recs[0].Plan != planHash(text) {
		return p, fmt.Errorf("%s is not the plan that this run began with: put the original back, the journal's first line has its sha256", filepath.Join(dir, planName))
	}
	return p, json.Unmarshal(text, &p)
}

// append makes one record durable.
func (j *journal) append(r record) error {
	if j.err != nil {
		return j.err
	}
	r.V, r.Seq, r.Time = journalFormat, len(j.recs)+1, time.Now().UTC().Truncate(time.Millisecond)
	line, err := encodeRecord(r)
	if err == nil && len(line) > maxRecordBytes {
		err = fmt.Errorf("record of %d bytes is above the limit of %d", len(line), maxRecordBytes)
	}
	if err != nil {
		return err
	}
	if _, err = j.file.WriteAt(line, j.end); err == nil {
		err = j.file.Sync()
	}
	if err != nil {
		j.err = fmt.Errorf("write journal: %w", err)
		return j.err
	}
	j.end += int64(len(line))
	j.size = max(j.size, j.end)
	j.recs = append(j.recs, r)
	if j.hook != nil {
		j.hook("record " + string(r.Kind) + " " + r.Step)
	}
	return nil
}

// reserve makes sure that the records of the next steps find room.
func (j *journal) reserve() error {
	if j.err != nil {
		return j.err
	}
	if j.size-j.end >= reserveBytes/2 {
		return nil
	}
	if err := j.file.Preallocate(j.end + reserveBytes); err != nil {
		return fmt.Errorf("reserve room for the journal: %w", err)
	}
	j.size = j.end + reserveBytes
	return nil
}

// archive sets a run that is over aside, so that a new one can begin.
func (j *journal) archive() error {
	stamp := j.recs[0].Time.Format("20060102T150405.000")
	if j.file != nil {
		if err := j.file.Close(); err != nil {
			return err
		}
		j.file = nil
	}
	for _, name := range []string{summaryName, planName, journalName} { // the journal last: without it there is no run
		err := j.fs.Rename(j.path(name), j.path(stamp+"-"+name))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("set the last run aside: %w", err)
		}
	}
	j.recs, j.end, j.size = nil, 0, 0
	return j.fs.SyncDir(j.dir)
}

// close gives back what was reserved, and the lock.
func (j *journal) close() {
	if j.file != nil {
		if j.err == nil && j.size > j.end {
			_ = j.file.Truncate(j.end) // the zeros are dropped by the next reader, too
		}
		_ = j.file.Close() // every record was synced
	}
	_ = j.lock.Close()
}

// progress is what the records say: which steps are done, and what was begun.
type progress struct {
	done   map[string]bool
	intent map[string]bool // begun, and neither done nor failed
	yes    map[string]bool
	broken map[string]bool
	back   *record // a way back that was begun and not walked to its end
	ended  string  // text of the end, empty while there is something to do
	failed *record // the last failure, if nothing went well after it
}

// replay computes where a run stands. It is a function of the records alone.
func replay(recs []record) *progress {
	p := &progress{done: map[string]bool{}, intent: map[string]bool{}, yes: map[string]bool{}, broken: map[string]bool{}}
	for i := range recs {
		p.take(&recs[i])
	}
	return p
}

func (p *progress) take(r *record) {
	switch r.Kind {
	case recBegin:
		for _, name := range r.Broken {
			p.broken[name] = true
		}
	case recIntent:
		p.intent[r.Step], p.ended = true, ""
	case recDone:
		p.done[r.Step], p.failed = true, nil
		delete(p.intent, r.Step)
		if p.back != nil {
			for _, id := range p.back.Undoes[r.Step] {
				delete(p.done, id)
				delete(p.intent, id)
			}
		}
	case recFailed:
		p.failed = r
		delete(p.intent, r.Step)
	case recBack:
		p.back, p.ended = r, ""
	case recBacked:
		p.back = nil
	case recYes:
		p.yes[r.Step] = true
	case recEnd:
		p.ended = r.Text
	case recResume:
	}
}
