package tidy

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const module = "theseus"

// source is one parsed Go file of the module.
type source struct {
	path   string // from the root, with slashes
	folder string
	file   *ast.File
	lines  int
	test   bool
}

// load parses every Go file of the module; nested modules are not ours to judge.
func load(t *testing.T) (*token.FileSet, []source) {
	t.Helper()
	root := "../.."
	fset := token.NewFileSet()
	var all []source
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(root, path)
		rel = filepath.ToSlash(rel)
		if d.IsDir() {
			return skipFolder(rel, d.Name(), path)
		}
		if !strings.HasSuffix(rel, ".go") {
			return nil
		}
		f, err := parser.ParseFile(fset, path, nil, parser.ParseComments)
		if err != nil {
			return err
		}
		all = append(all, source{
			path: rel, folder: filepath.ToSlash(filepath.Dir(rel)), file: f,
			lines: fset.File(f.Pos()).LineCount(), test: strings.HasSuffix(rel, "_test.go"),
		})
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if len(all) < 5 {
		t.Fatalf("only %d Go files found below %s: the walk is wrong", len(all), root)
	}
	return fset, all
}

func skipFolder(rel, name, path string) error {
	if rel != "." && (strings.HasPrefix(name, ".") || name == "testdata" || name == "build" || name == "data") {
		return filepath.SkipDir
	}
	if _, err := os.Stat(filepath.Join(path, "go.mod")); err == nil && rel != "." {
		return filepath.SkipDir
	}
	return nil
}

// roomOf finds the row of the table that a folder belongs to: the longest name
// that is the folder or a parent of it.
func roomOf(folder string) *room {
	var best *room
	for i := range rooms {
		r := &rooms[i]
		if within(folder, r.name) && (best == nil || len(r.name) > len(best.name)) {
			best = r
		}
	}
	return best
}

func within(folder, name string) bool {
	return folder == name || strings.HasPrefix(folder, name+"/")
}

func TestImports(t *testing.T) {
	_, all := load(t)
	for _, s := range all {
		r := roomOf(s.folder)
		if r == nil {
			t.Errorf("%s: folder %q is no room of the architecture; open one in docs/ARCHITECTURE.md and policy.go first", s.path, s.folder)
			continue
		}
		if s.test {
			continue // test code may import anything
		}
		for _, im := range s.file.Imports {
			target := strings.Trim(im.Path.Value, `"`)
			if r.pure && slices.Contains(impure, target) {
				t.Errorf("%s: a pure room must not import %s", s.path, target)
			}
			if ours, ok := strings.CutPrefix(target, module+"/"); ok && !mayImport(r, s.folder, ours) {
				t.Errorf("%s: room %q may not import %q", s.path, r.name, ours)
			}
			if strings.HasPrefix(target, "go.etcd.io/etcd/server") || strings.HasPrefix(target, "github.com/coreos/etcd") {
				t.Errorf("%s: etcd's server is a black box to test against, never a library", s.path)
			}
		}
	}
}

func mayImport(r *room, folder, target string) bool {
	to := roomOf(target)
	if to == r || to == nil {
		return true // inside one room, or not a package of ours
	}
	for _, name := range r.imports {
		if name == "*" || to.name == name {
			return true
		}
	}
	return false
}

func TestPackages(t *testing.T) {
	_, all := load(t)
	documented := map[string]int{}
	for _, s := range all {
		if s.test {
			continue
		}
		name := s.file.Name.Name
		if slices.Contains(bannedNames, name) {
			t.Errorf("%s: %q says nothing of what is inside", s.path, name)
		}
		if _, seen := documented[s.folder]; !seen {
			documented[s.folder] = 0
		}
		if s.file.Doc != nil {
			documented[s.folder]++
		}
	}
	for folder, n := range documented {
		if n != 1 {
			t.Errorf("%s: %d package docs, want exactly one", folder, n)
		}
	}
}

func TestSizes(t *testing.T) {
	fset, all := load(t)
	for _, s := range all {
		if ast.IsGenerated(s.file) {
			continue
		}
		if s.lines > maxFileLines && longFiles[s.path] == "" {
			t.Errorf("%s: %d lines, at most %d", s.path, s.lines, maxFileLines)
		}
		for _, d := range s.file.Decls {
			fn, ok := d.(*ast.FuncDecl)
			if !ok || fn.Body == nil || s.test || within(s.folder, "test") {
				continue
			}
			n := fset.Position(fn.End()).Line - fset.Position(fn.Pos()).Line + 1
			if n > maxFunctionLines && longFunctions[s.folder+"."+fn.Name.Name] == "" {
				t.Errorf("%s: %s has %d lines, at most %d", s.path, fn.Name.Name, n, maxFunctionLines)
			}
		}
	}
}

func TestGoroutinesAndClock(t *testing.T) {
	fset, all := load(t)
	for _, s := range all {
		r := roomOf(s.folder)
		if s.test || r == nil {
			continue
		}
		ast.Inspect(s.file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.GoStmt:
				if !r.spawns {
					t.Errorf("%s: room %q must not start goroutines", fset.Position(n.Pos()), r.name)
				}
			case *ast.SelectorExpr:
				if x, ok := n.X.(*ast.Ident); ok && r.pure && x.Name == "time" && n.Sel.Name == "Now" {
					t.Errorf("%s: a pure room takes the time as an argument", fset.Position(n.Pos()))
				}
			}
			return true
		})
	}
}

func TestExceptionsStillNeeded(t *testing.T) {
	fset, all := load(t)
	long := map[string]bool{}
	for _, s := range all {
		if s.lines > maxFileLines {
			long[s.path] = true
		}
		for _, d := range s.file.Decls {
			if fn, ok := d.(*ast.FuncDecl); ok && fn.Body != nil {
				if fset.Position(fn.End()).Line-fset.Position(fn.Pos()).Line+1 > maxFunctionLines {
					long[s.folder+"."+fn.Name.Name] = true
				}
			}
		}
	}
	for name := range longFunctions {
		if !long[name] {
			t.Errorf("policy.go excuses %s, which is short now: delete the excuse", name)
		}
	}
	for name := range longFiles {
		if !long[name] {
			t.Errorf("policy.go excuses %s, which is short now: delete the excuse", name)
		}
	}
}
