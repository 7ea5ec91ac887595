package offline

import (
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
)

// logger writes to stderr in the console format of etcdutl: time, level, caller,
// message and the fields as JSON, separated by tabs.
func (t *tool) logger() *zap.Logger {
	c := zap.NewProductionEncoderConfig()
	c.EncodeTime = zapcore.TimeEncoderOfLayout(time.RFC3339)
	c.EncodeDuration = zapcore.StringDurationEncoder
	core := zapcore.NewCore(zapcore.NewConsoleEncoder(c), zapcore.Lock(zapcore.AddSync(t.stderr)), zap.InfoLevel)
	return zap.New(core, zap.AddCaller(), zap.ErrorOutput(zapcore.AddSync(t.stderr)))
}
