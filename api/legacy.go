package api

import "fmt"

// LegacyRequest is the v2 Request (proto2, interop 6.3) that etcd up to 3.5 puts in
// the log: for its own attributes, the cluster version, health probes and v2 users.
type LegacyRequest struct {
	ID         uint64
	Method     string
	Path       string
	Val        string
	Dir        bool
	PrevValue  string
	PrevIndex  uint64
	PrevExist  *bool
	Expiration int64 // unix time in nanoseconds
	Wait       bool
	Since      uint64
	Recursive  bool
	Sorted     bool
	Quorum     bool
	Time       int64 // unix time in nanoseconds
	Stream     bool
	Refresh    *bool
}

// Append appends r as every etcd writes it: all fields, even zero ones, but the
// two optional ones when they are nil.
func (r *LegacyRequest) Append(dst []byte) []byte {
	flag := func(field int, v bool) {
		dst = appendVarint(dst, uint64(field)<<3|wireVarint)
		if v {
			dst = append(dst, 1)
		} else {
			dst = append(dst, 0)
		}
	}
	number := func(field byte, v uint64) { dst = appendVarint(append(dst, field<<3|wireVarint), v) }
	text := func(field byte, v string) { dst = append(appendLen(dst, field, len(v)), v...) }

	number(1, r.ID)
	text(2, r.Method)
	text(3, r.Path)
	text(4, r.Val)
	flag(5, r.Dir)
	text(6, r.PrevValue)
	number(7, r.PrevIndex)
	if r.PrevExist != nil {
		flag(8, *r.PrevExist)
	}
	number(9, uint64(r.Expiration))
	flag(10, r.Wait)
	number(11, r.Since)
	flag(12, r.Recursive)
	flag(13, r.Sorted)
	flag(14, r.Quorum)
	number(15, uint64(r.Time))
	flag(16, r.Stream)
	if r.Refresh != nil {
		flag(17, *r.Refresh)
	}
	return dst
}

// Unmarshal parses a bare request; r is reset first. Strings are taken as they
// are: proto2 does not ask for UTF-8, and paths of v2 users may be anything.
func (r *LegacyRequest) Unmarshal(b []byte) error {
	*r = LegacyRequest{}
	return r.merge(b)
}

// UnmarshalEntry parses entry data that Classify says is LegacyBare or
// LegacyWrapped, and fails for any other kind.
func (r *LegacyRequest) UnmarshalEntry(data []byte) error {
	kind, err := Classify(data)
	switch {
	case err != nil:
		return err
	case kind == LegacyBare:
		return r.Unmarshal(data)
	case kind != LegacyWrapped:
		return fmt.Errorf("decode legacy request: the entry is %s", kind)
	}
	*r = LegacyRequest{}
	for w := (reader{rest: data}); w.next(); {
		if w.tag != fieldLegacy {
			continue
		}
		if err := r.merge(w.buf); err != nil {
			return err
		}
	}
	return nil
}

func (r *LegacyRequest) merge(b []byte) error {
	w := reader{rest: b}
	for w.next() {
		switch w.tag & 7 {
		case wireBytes:
			r.setText(w.tag>>3, string(w.buf))
		case wireVarint:
			r.setNumber(w.tag>>3, w.num)
		}
	}
	if w.bad {
		return fmt.Errorf("decode legacy request: %w", errMalformed)
	}
	return nil
}

func (r *LegacyRequest) setText(field uint64, v string) {
	switch field {
	case 2:
		r.Method = v
	case 3:
		r.Path = v
	case 4:
		r.Val = v
	case 6:
		r.PrevValue = v
	}
}

func (r *LegacyRequest) setNumber(field, v uint64) {
	on := v != 0
	switch field {
	case 1:
		r.ID = v
	case 5:
		r.Dir = on
	case 7:
		r.PrevIndex = v
	case 8:
		r.PrevExist = &on
	case 9:
		r.Expiration = int64(v)
	case 10:
		r.Wait = on
	case 11:
		r.Since = v
	case 12:
		r.Recursive = on
	case 13:
		r.Sorted = on
	case 14:
		r.Quorum = on
	case 15:
		r.Time = int64(v)
	case 16:
		r.Stream = on
	case 17:
		r.Refresh = &on
	}
}
